"""The network of a container: none, or none but the address of a proxy, or an open one if requested.

Where something is allowed, a second container has a network namespace without any device but loopback, in
which this machine's own Python makes the socket of the proxy (see `network.proxy_process.run_proxy`). The
bottle's container joins it. Other tools use an internal network here, which the host's bridge belongs to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.container.commands import bind_option
from bot_bottle.backend.container.idmap_helper import helper_image
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import EngineError
from bot_bottle.host.process import Child
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.wait import wait_until
from bot_bottle.network.credentials import CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.host_ports import HOST
from bot_bottle.network.proxy_address import ADDRESS
from bot_bottle.network.proxy_process import PROGRAM, ProxyProcess, run_proxy
from bot_bottle.network.published import NAME, forwarded
from bot_bottle.vm.direct.container import hosts_file

_TIMEOUT = 120.0  # seconds
_PLACE = Path("/sockets")
_PRIVILEGED = 1024  # ports below it need a capability, except where the kernel is set up otherwise

# folders with Python, its libraries and its loader, if they exist
_SYSTEM = ("/usr", "/lib", "/lib64", "/nix/store")


class Network(Struct, frozen=True):
    """The value of `--network`.

    A `shared` one belongs to another container, with its hostname. `proxy` is its only way out.
    `options` are others of the bottle's container.
    """

    mode: str
    shared: bool = False
    proxy: ProxyProcess | None = None
    options: tuple[str, ...] = ()

    def forget(self) -> None:
        """Start the log again."""
        if self.proxy is not None:
            self.proxy.forget()


@contextmanager
def network(
    launch: BottleConfig,
    engine: Engine,
    labels: Mapping[str, str],
    record: EgressFiles,
    run: RunDir,
    store: CredentialStore,
    progress: Progress,
) -> Iterator[Network]:
    """Yield a bottle's network, which exists until the block ends.

    Its container has the labels, by which it is removed with the bottle's own.
    """
    egress = launch.egress
    if egress.open:
        yield Network("bridge" if engine.name == "docker" else "private")
        return
    if egress.closed and not launch.ports:
        yield Network("none")
        return
    folder = run.folder("sockets")
    folder.chmod(0o755)  # in a folder that only the user can enter
    with ExitStack() as stack:
        asked = []
        made = None
        if not egress.closed:
            proxy = run_proxy(egress, record, folder, run, store, progress, launch.services)
            made = stack.enter_context(proxy)
            asked.append(",".join((f"listen={_PLACE / made.socket.name}", *map(str, egress.host_ports))))
        if launch.ports:
            stack.enter_context(forwarded(launch.ports, folder, run, progress))
            asked.append(f"connect={_PLACE / NAME}")
        words = run.path / "network.log"
        output = stack.enter_context(words.open("wb"))
        options = [*_options(launch, labels, folder), *engine.limit_options()]
        command = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", PROGRAM, *asked]
        image = helper_image(engine, run)
        holder = stack.enter_context(engine.containers.run_in_background(image, command, options, output))
        _wait(engine, folder, made, holder, words)
        held = engine.containers.inspect(_name(launch))["Id"]
        hosts = _hosts_options(launch, run) if egress.host_ports and engine.name == "podman" else ()
        yield Network(f"container:{held}", shared=True, proxy=made, options=hosts)


def _options(launch: BottleConfig, labels: Mapping[str, str], folder: Path) -> list[str]:
    options = [f"--name={_name(launch)}", f"--hostname={launch.slug}"]
    options += [f"--label={key}={value}" for key, value in labels.items()]
    options += ["--pull=never", "--network=none", "--log-driver=none", "--read-only", "--init", "--user=0"]
    if ports := launch.egress.host_ports:
        options.append(f"--add-host={HOST}:{ADDRESS}")  # docker shows the bottle's container the same file
        options += ["--cap-add=NET_BIND_SERVICE"] if min(ports) < _PRIVILEGED else []
    options += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=32", "--memory=256m"]
    options += [bind_option(Path(each), each, "readonly") for each in _folders()]
    return [*options, bind_option(folder, str(_PLACE), "readonly")]


def _hosts_options(launch: BottleConfig, run: RunDir) -> tuple[str, ...]:
    """Return the option for an /etc/hosts of ours: podman makes one for each container, and refuses names."""
    path = run.path / "hosts"
    path.write_text(hosts_file(launch.slug, {HOST: ADDRESS}))
    path.chmod(0o644)
    return (bind_option(path, "/etc/hosts", "readonly"),)


def _folders() -> Sequence[str]:
    own = os.path.realpath(sys.base_prefix)
    inside = own == "/usr" or own.startswith(("/usr/", "/nix/store/"))
    return [*filter(os.path.isdir, _SYSTEM), *([] if inside else [own])]


def _name(launch: BottleConfig) -> str:
    return f"{launch.name}-network"


def _wait(engine: Engine, folder: Path, made: ProxyProcess | None, holder: Child, words: Path) -> None:
    """Wait until all sockets have been passed on: their paths are removed then."""

    def ready() -> bool:
        ended = holder.code is not None  # asked first: paths that it removed before it exited count
        if not any(folder.iterdir()):
            return True
        if made is not None:
            made.check()
        return ended

    wait_until(ready, _TIMEOUT)
    if any(folder.iterdir()):
        raise EngineError(
            f"{engine.name} could not create the bottle's network",
            why=words.read_text("utf-8", "replace")[-2000:],
        )
