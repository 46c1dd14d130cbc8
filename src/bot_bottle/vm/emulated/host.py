"""A KVM host in software, for machines whose own KVM cannot boot a guest.

QEMU emulates a processor with AMD SVM; Debian's kernel in it offers KVM; smolvm runs on that as on any host.
It is slow (a guest boots in 20 to 60 seconds) and otherwise the same. The emulated host has no network (see
qemu.py for where it is asked for) and sees nothing of this machine but a folder with the files it was given,
read-only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from bot_bottle.errors import BootError, SmolvmError
from bot_bottle.host import paths, process, terminal
from bot_bottle.host.process import Child, Completed
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import Secret
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.unix_sockets import connect
from bot_bottle.vm.channel import StreamRelay, connect_control, write_to
from bot_bottle.vm.console import QEMU_LOG, kernel_panic
from bot_bottle.vm.emulated.channel import CONSOLE, Control, Session, smolvm_script
from bot_bottle.vm.emulated.console import boot_error, ended_error
from bot_bottle.vm.emulated.disk import check_disk, root_disk
from bot_bottle.vm.emulated.kernel import check_kernel, kernel
from bot_bottle.vm.emulated.namespace import Namespace
from bot_bottle.vm.emulated.qemu import (
    FIRST_FORWARDED,
    configure_network,
    find_qemu,
    forward_published_ports,
    forward_registry_port,
    network_options,
    published_port,
    qemu_argv,
)
from bot_bottle.vm.foreign_smolvm import reject_foreign_binary
from bot_bottle.vm.host import Attached, checked
from bot_bottle.vm.package import Installation, prepare_installation
from bot_bottle.vm.preparation import prepared_folder
from bot_bottle.vm.qemu_program import qemu_version
from bot_bottle.vm.smolvm import AS_CALLER, start_argv

_QUICK = 30.0
_READY = 180.0  # seconds; ten on an idle machine
OWN_MEMORY_MIB = 1536  # what the emulated host needs besides its guest
_FORMAT = "3"  # the folder of what a host is made of: raise it when one of these files is made in another way


def own_smolvm(progress: Progress) -> Installation:
    """Return the smolvm that runs in an emulated host, made ready. Raises SmolvmError."""
    reject_foreign_binary()
    return prepare_installation(progress)


def check_emulation() -> str:
    """Check that an emulated host could be made here, and return QEMU's version. Raises AccelError."""
    version = qemu_version(find_qemu())
    check_kernel(_folder())
    check_disk()
    return version


def prepare_emulation(progress: Progress) -> tuple[Path, Path, Path]:
    """Make kernel, initramfs and root disk if they are not in the cache, and return them."""
    find_qemu()
    smolvm = own_smolvm(progress)
    folder = _folder()
    waiting = "waiting for another bot-bottle that makes the emulated host"
    with prepared_folder(folder, "the emulated host", waiting, 0o700, progress):
        image, initramfs = kernel(folder, progress)
        disk = root_disk(folder / f"disk-{smolvm.version}.img", smolvm, progress)
    return image, initramfs, disk


def _folder() -> Path:
    return paths.emulation_dir() / _FORMAT


class EmulatedHost:
    """A running emulated host. Made by `emulated_host`."""

    kind: Literal["kvm", "nested"] = "nested"

    def __init__(
        self,
        folder: Path,
        control: Control,
        child: Child,
        *,
        shares: bool = False,
        published: Sequence[int] = (),
    ) -> None:
        self._folder = folder
        self._published = published
        self._shares = shares
        self._control = control
        self._child = child
        self._calling = threading.Lock()  # there is one session for it

    def call(
        self, args: Sequence[str], *, timeout: float, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Completed:
        """Run smolvm to its end. Raises SmolvmError."""
        with self._calling:
            return self._call(args, timeout, env or {}, check=check)

    def _call(self, args: Sequence[str], timeout: float, env: Mapping[str, str], *, check: bool) -> Completed:
        out, err = bytearray(), bytearray()
        relay = StreamRelay()
        number = self._control.send("b", smolvm_script(args, env))
        relay.drain(connect(self._folder, "outb"), out.extend)
        relay.drain(connect(self._folder, "errb"), err.extend)
        try:
            code = self._control.wait(number, timeout)
            if code is not None:
                relay.finish()
        finally:
            relay.close()
        if code is None:
            raise SmolvmError(
                f"smolvm {' '.join(args[:2])} did not end within {timeout:g} s",
                why=err.decode("utf-8", "replace"),
            )
        done = Completed(("smolvm", *args), code, bytes(out), bytes(err))
        return checked(done) if check else done

    @contextmanager
    def attach(self, args: Sequence[str], *, tty: bool, env: Mapping[str, str]) -> Iterator[Attached]:
        """Run smolvm on our own streams, until the block ends."""
        with ExitStack() as stack:
            session = Session(self._control)
            stack.callback(session.relay.close)
            if tty:
                stack.enter_context(terminal.raw())
                stack.enter_context(terminal.on_resize(self._resize))
                console = connect(self._folder, CONSOLE)
                session.start("tty", smolvm_script(args, env))
                session.relay.drain(console, write_to(1))
                session.relay.feed(console, sys.stdin.fileno())
            else:
                session.start("a", smolvm_script(args, env))
                session.relay.drain(connect(self._folder, "outa"), write_to(1))
                session.relay.drain(connect(self._folder, "erra"), session.stderr_filter.feed)
                session.relay.feed(connect(self._folder, "ina"), 0)
            yield session

    @contextmanager
    def pass_secrets(self, values: Mapping[str, Secret]) -> Iterator[Mapping[str, str]]:
        """Yield the paths of pipes inside the host; they end with it, as it ends with us."""
        paths = {name: f"/run/secret-{name}" for name in values}
        for name, path in paths.items():
            value = shlex.quote(values[name].reveal())
            script = f"mkfifo -m 600 {path} || exit 1\n{{ printf %s {value} > {path}; rm -f {path}; }} &"
            if self._control.wait(self._control.send("quiet", script), _QUICK) != 0:
                raise BootError("cannot pass a secret to the emulated host", next_step="try again")
        yield paths

    def _resize(self, rows: int, columns: int) -> None:
        self._control.send("quiet", f"stty -F /dev/hvc0 rows {rows} cols {columns}")

    def start(self, machine: str, *, timeout: float, env: Mapping[str, str], interceptor: str = "") -> None:
        """Start a machine; one that shares a folder does not need a user of its own, there is nobody else."""
        self.call(
            start_argv(machine, interceptor),
            timeout=timeout,
            env={**env, **(AS_CALLER if self._shares else {})},
        )

    def folder(self, path: Path) -> str:  # noqa: ARG002 - there is one, chosen at the boot
        """Return the path of the folder that it may write to."""
        return "/exchange"

    def tools(self, folder: Path) -> str:
        """Return the path of a copy of the folder: smolvm's monitor has a user of its own in the host."""
        target = self._folder / "share" / folder.name
        shutil.copytree(folder, target, dirs_exist_ok=True)
        copy = f"cp -r /share/{folder.name} /opt/ && chmod -R a+rX /opt/{folder.name}"
        if self._control.wait(self._control.send("quiet", copy), _QUICK) != 0:
            raise BootError("cannot copy files to the emulated host", next_step="try again")
        return f"/opt/{folder.name}"

    def port_of(self, port: int) -> int:
        """Return the port of the host that one of ours leads to, as given at the boot."""
        return published_port(self._published.index(port))

    def path_of(self, file: Path) -> str:
        """Put a file into the shared folder (a hard link where possible) and return its path in the host."""
        target = self._folder / "share" / file.name
        if not target.exists():
            try:
                target.hardlink_to(file)
            except OSError:
                shutil.copyfile(file, target)
        return f"/share/{file.name}"


@contextmanager
def emulated_host(
    run: RunDir,
    progress: Progress,
    *,
    memory_mib: int,
    exchange: Path | None = None,
    port: int | None = None,
    network: bool = False,
    namespace: Namespace | None = None,
    published: Sequence[int] = (),
    prefix: Sequence[str] = (),
    processors: int = 1,
) -> Iterator[EmulatedHost]:
    """Boot an emulated host for guests of up to `memory_mib`, and end it when the block ends.

    `exchange` is a folder it may write to, as /exchange; `port` is one of our loopback that it may reach;
    with `network` it may reach all that we can but our loopback, in a `namespace` the sockets of that alone;
    `published` are ports of ours that lead in; `prefix` is put before QEMU's command line; `processors` are
    as qemu.py says.
    Raises AccelError when something is not installed, BootError when it does not come up.
    """
    files = prepare_emulation(progress)
    folder = Path(tempfile.mkdtemp(prefix="emulated-", dir=run.path))
    (folder / "share").mkdir(mode=0o700)
    if namespace is not None:
        prefix = (*namespace.prefix(FIRST_FORWARDED), *prefix)
    networks = network_options(
        port, network=network, proxied=namespace is not None, published=_listening(published, namespace)
    )
    argv = [*prefix, *qemu_argv(*files, memory_mib + OWN_MEMORY_MIB, exchange, networks, processors)]
    with ExitStack() as stack:
        with progress.stage("host") as stage:
            log = stack.enter_context((folder / QEMU_LOG).open("wb"))
            env = {**os.environ, "TMPDIR": str(folder)}
            child = stack.enter_context(process.background(argv, cwd=folder, output=log, env=env))
            control = connect_control(
                lambda: Control(folder, partial(ended_error, folder, child)),
                child,
                lambda: boot_error(folder, child, _READY, _folder()),
                20,
                0.02,
            )
            stack.callback(control.close)
            stack.callback(child.send, signal.SIGKILL)
            if not control.wait_ready(_READY, lambda: bool(kernel_panic(folder))):
                raise boot_error(folder, child, _READY, _folder())
            _configure(control, port, len(published), network=network, proxied=namespace is not None)
            stage.conclude("emulated host is up")
        yield EmulatedHost(folder, control, child, shares=exchange is not None, published=published)


def _configure(control: Control, port: int | None, published: int, *, network: bool, proxied: bool) -> None:
    """Configure the networks of a host that is up. Raises BootError."""
    if port is not None:
        forward_registry_port(control, port)
    if network or proxied:
        configure_network(control, proxied=proxied)
    if published:
        forward_published_ports(control, published)


def _listening(published: Sequence[int], namespace: Namespace | None) -> Sequence[int]:
    """Return the ports on which QEMU listens: in a namespace a forwarder has the published ones."""
    return published if namespace is None else range(FIRST_FORWARDED, FIRST_FORWARDED + len(published))
