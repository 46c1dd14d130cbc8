"""A bottle as a microVM that QEMU emulates: it boots an artifact's root image and runs attached commands."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.backend.base import BottleConfig, OnProved, Place, default_path, wait, with_placeholders
from bot_bottle.backend.direct import probes
from bot_bottle.backend.direct.network import PROXY, Network, network
from bot_bottle.backend.direct.root import root_image
from bot_bottle.backend.users import home_of, resolve
from bot_bottle.erofs.reader import read_file
from bot_bottle.errors import BootError, SpecError
from bot_bottle.host import paths, signals, terminal
from bot_bottle.host.process import Completed
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.credentials import BUNDLE, CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.host_ports import HOST
from bot_bottle.network.probes import TOOLKIT, Proof
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.structs import replace
from bot_bottle.vm.channel import write_to
from bot_bottle.vm.direct.clock import TickRate
from bot_bottle.vm.direct.confine import Confined, confined
from bot_bottle.vm.direct.container import (
    User,
    container_document,
    encoded,
    hosts_file,
    process_document,
)
from bot_bottle.vm.direct.files import prepare_files
from bot_bottle.vm.direct.guest import DISKS
from bot_bottle.vm.direct.installation import Installation, find_installation
from bot_bottle.vm.direct.machine import Attached, Machine, Session, boot
from bot_bottle.vm.direct.qemu import Extras, Files, Guest, qemu_argv
from bot_bottle.vm.direct.sessions import SOCKET, remote_session, served
from bot_bottle.vm.direct.storage import write_storage
from bot_bottle.vm.qemu_program import find_qemu

if TYPE_CHECKING:
    from bot_bottle.vm.direct.share import Share

_SETUP = 120.0  # seconds
_QUICK = 60.0
_AFTER = 300.0
_STORAGE_MIB = 20 << 10  # smolvm's own disks have as many
_LARGEST = 4 << 20  # bytes of /etc/passwd or /etc/group
_USER_FILES = (b"etc/passwd", b"etc/group")
_FOLDERS = {"upper": 0o755, "work": 0o755, "workspace": 0o1777, "tmp": 0o1777}


class Image(Struct, frozen=True):
    """What an artifact's manifest and files say of its commands: `passwd` and `group` are those of /etc."""

    root: Path
    passwd: bytes
    group: bytes
    user: str
    env: Mapping[str, str]

    def find_user(self, user: str) -> User:
        """Return a user of the image by `name`, `uid` or with `:group`; "" for its own. Raises ImageError."""
        uid, gid = resolve(user or self.user or "0", self.passwd, self.group)
        return User(uid, gid, home_of(uid, self.passwd))

    def document(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        user: str,
        workdir: str,
        size: tuple[int, int] | None,
    ) -> dict[str, Any]:
        """Return the document of a command in the image. Raises ImageError."""
        return process_document(command, self.find_user(user), {**self.env, **env}, workdir, size=size)

    def asked(self, request: Mapping[str, Any]) -> bytes:
        """Return the document of a command that another process asks for. Raises ImageError."""
        size = request["size"]
        return encoded(
            self.document(
                [str(each) for each in request["command"]],
                {str(name): str(value) for name, value in request["env"].items()},
                str(request["user"]),
                str(request["workdir"]),
                None if size is None else (int(size[0]), int(size[1])),
            )
        )


class DirectBottle:
    """A running bottle. Made by `launch`."""

    def __init__(self, launch: BottleConfig, image: Image, machine: Machine, proof: Proof) -> None:
        self.launch = launch
        self._image = image
        self._machine = machine
        self._proof = proof

    @property
    def place(self) -> Place:
        """Where it runs."""
        return "direct"

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        """Run the bottle's command on our own streams and return its exit status.

        The first Ctrl-C (or SIGTERM, SIGHUP) goes to the command; the second raises Interrupted. Raises
        BootError when the guest ends before the command.
        """
        on_proved(self._proof)
        launch = self.launch
        values = {name: secret.reveal() for name, secret in launch.secrets.items()}
        document = self._image.document(
            (*launch.before, *launch.command),
            {**launch.variables(tty=tty), **values},
            launch.user,
            launch.workdir,
            terminal_size() if tty else None,
        )
        with self._machine.session(terminal=tty) as session:
            return run_attached(
                session, self._machine.folder, encoded(document), tty=tty, timeout=launch.timeout
            )

    def run_before(self, command: tuple[str, ...]) -> int:
        """Run another command before the bottle's own, in the same guest."""
        other = DirectBottle(self.launch.for_command(command), self._image, self._machine, self._proof)
        return other.run(tty=False)

    def run_after(self, command: tuple[str, ...]) -> Completed:
        """Run another command when the bottle's own has exited, in the same guest."""
        launch = self.launch
        env = launch.variables(tty=False)
        return self._machine.run(self._image.document(command, env, launch.user, "/", None), _AFTER)

    def execute(self, command: tuple[str, ...], *, user: str = "") -> Completed:
        """Run another command in the bottle and return its result."""
        return self._machine.run(self._image.document(command, {}, user, "/", None), _QUICK)


def terminal_size() -> tuple[int, int]:
    """Return rows and columns of our own terminal."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.lines, size.columns


def run_attached(
    session: Session, folder: Path, data: bytes, *, tty: bool, timeout: int | None = None
) -> int:
    """Run a command in a session on our own streams and return its exit status.

    Raises Interrupted, and TimeLimitError after `timeout` seconds.
    """
    with ExitStack() as stack:
        received = stack.enter_context(signals.capture_signals())
        if tty:
            stack.enter_context(terminal.raw())
        stdin = sys.stdin.fileno() if tty else 0
        attached = Attached(session, folder, stdin, write_to(1), write_to(2), terminal=tty)
        stack.callback(attached.close)
        attached.start("tty" if tty else "run", data)
        if tty:
            stack.enter_context(terminal.on_resize(attached.resize))
        return wait(attached, received, attached.signal, attached.kill, timeout)


def execute(launch: BottleConfig, *, tty: bool) -> int:
    """Run another command in a bottle of another process, and return its exit status. Raises SpecError."""
    folder = machine_folder(launch.slug)
    request = {
        "command": list(launch.command),
        "env": launch.variables(tty=tty),
        "user": launch.user,
        "workdir": launch.workdir,
        "size": terminal_size() if tty else None,
    }
    with remote_session(folder, request) as session:
        return run_attached(session, folder, b"", tty=tty)


def machine_folder(slug: str) -> Path:
    """Return the folder of a running bottle's machine. Raises SpecError."""
    found = max(paths.runs_dir().glob(f"run-*/{_folder_name(slug)}/{SOCKET}"), key=_made, default=None)
    if found is None:
        raise SpecError(f"the bottle {slug} is not running", next_step="see bottle ls")
    return found.parent


def _made(path: Path) -> int:
    """Return when a file was made: one that a killed bottle of the same name left is older."""
    try:
        return path.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def _folder_name(slug: str) -> str:
    return f"machine-{slug}"


@contextmanager
def launch(
    launch: BottleConfig, artifact: Path, run: RunDir, record: EgressFiles, progress: Progress
) -> Iterator[DirectBottle]:
    """Boot a bottle from an artifact; however the block ends, nothing of it remains.

    Its network isolation is checked before the block begins.
    """
    rate = TickRate()
    qemu = find_installation(find_qemu())
    kernel, system = prepare_files(progress)
    image = _image(artifact, progress)
    user = image.find_user(launch.user)
    folder = run.folder(_folder_name(launch.slug))
    storage = folder / "storage"
    write_storage(storage, (launch.storage_mib or _STORAGE_MIB) << 20, _FOLDERS)
    files = Files(str(kernel), str(system), str(image.root), str(storage))
    credentials, launch = with_placeholders(launch)
    store = CredentialStore(credentials, run.path / BUNDLE)
    with ExitStack() as stack:
        with progress.timed("network"):
            net = stack.enter_context(network(launch, record, run, folder, store, progress))
        with progress.stage("boot") as stage:
            stage.say("starting the microVM")
            share = _share(launch, user, folder, stack)
            guest = Guest(files, launch.memory_mib, launch.cpus, _extras(launch, share, net))
            program = stack.enter_context(_confined(qemu, guest, rate, net, folder))
            with progress.timed("start"):
                machine = stack.enter_context(boot(program.argv, folder))
            in_force = program.in_force()
            with progress.timed("network"):
                net.wait()  # the proxy has loaded while the guest booted
            if share is not None:
                share.end_with(machine.child)
            if launch.workspace is not None and launch.workspace.index is not None:
                launch.workspace.index.record_owner(user.uid, user.gid)
            script = _setup_script(launch, user, share, net, store.read_bundle(launch.egress))
            with progress.timed("setup"):
                if machine.script(script, _SETUP) != 0:
                    raise BootError(
                        "the bottle's container did not start", why=machine.console(), next_step="try again"
                    )
            stage.say("checking its network isolation")
            with progress.timed("proof"):
                proof = probes.prove(machine, launch.egress, published=bool(launch.ports))
                proof |= probes.confinement(in_force)
            net.forget()
            stage.conclude("microVM is up, emulated")
        # as with docker, other commands have the variables of the bottle's own, but no secrets
        stack.enter_context(served(machine, replace(image, env={**image.env, **launch.env}).asked))
        yield DirectBottle(launch, image, machine, proof)


def _image(artifact: Path, progress: Progress) -> Image:
    manifest = artifact_format.read(artifact).manifest
    env = dict(item.partition("=")[::2] for item in manifest.env if "=" in item)
    root = root_image(artifact, progress)
    passwd, group = (read_file(root, name, _LARGEST) or b"" for name in _USER_FILES)
    return Image(root, passwd, group, manifest.user, {**default_path(env), **env})


def _share(launch: BottleConfig, user: User, folder: Path, stack: ExitStack) -> Share | None:
    mount = launch.workspace
    if mount is None:
        return None
    from bot_bottle.vm.direct.share import shared_folder

    return stack.enter_context(shared_folder(mount.source, user.uid, user.gid, mount.kept, folder))


def _extras(launch: BottleConfig, share: Share | None, net: Network) -> Extras:
    if share is None:
        return Extras(net.options)
    return Extras((*share.qemu_options(launch.memory_mib), *net.options), share.machine_options)


def _confined(
    qemu: Installation, guest: Guest, rate: TickRate, net: Network, folder: Path
) -> AbstractContextManager[Confined]:
    files = guest.files
    return confined(
        [*qemu_argv(qemu.program, guest, rate.khz()), *qemu.options],
        folder,
        network=net.kind,
        relay=net.relay,
        disks={Path(files.system): False, Path(files.root): False, Path(files.storage): True},
        readable=(Path(files.kernel), *qemu.readable),
    )


def _setup_script(launch: BottleConfig, user: User, share: Share | None, net: Network, bundle: str) -> str:
    """Return the script that mounts the disks and the workspace, and starts the container."""
    places = {} if share is None else {"workspace": share.place}
    trusted = BUNDLE if bundle else ""
    document = container_document(launch.name, user, toolkit=TOOLKIT, bundle=trusted, **places)
    named = {HOST: PROXY} if launch.egress.host_ports else {}
    put = partial("printf %s {} >{}".format)
    lines = [
        f"mount -a -T {DISKS} || exit 1",
        *([] if share is None else [f"{share.setup} || exit 1"]),
        "ifconfig lo up",
        net.setup,
        put(shlex.quote(hosts_file(launch.name, named)), "/run/hosts"),
        put(shlex.quote(net.resolvers), "/run/resolv.conf"),
        put(shlex.quote(encoded(document).decode()), "/run/config.json"),
        "$crun run -d -b /run bottle",
    ]
    if bundle:  # larger than an argument may be
        end = secrets.token_hex(16)
        lines.insert(0, f"cat >/run/{BUNDLE} <<'{end}'\n{bundle}\n{end}")
    return "\n".join(lines)
