"""A Ray cluster of several nodes that share nothing but Ray, each in a network namespace of its own.

A bridge in another namespace connects them, and callers are there too: nothing of it is in this machine's own
network. Each node has a home, a cache, a state folder, a host name and a container engine of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bot_bottle.host.process_tree import start_time
from tests.support.bottle import PROGRAM, Bottle, wait_until
from tests.support.canary import remembers
from tests.support.certificates import certify
from tests.support.engines import OWNER, call
from tests.support.ray_cluster import SPARING

HEAD = "head"
PORT, CLIENT = 6379, 10001

_RAY = str(PROGRAM.with_name("ray"))
_NET = "10.77.0"
_BITS = 24
_PREFIX = "bottle-ray"
_FOLDERS = "bb-rays-"
_SMALL = {  # fewer processes and threads, and a dead node is noticed in some seconds
    **SPARING,
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_enable_metrics_collection": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: `engine` are the variables that lead to its engine, `folder` is its home."""

    name: str
    address: str
    namespace: str
    folder: Path
    engine: Mapping[str, str | None]
    auth: Mapping[str, str]
    slots: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list, compare=False, repr=False)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What is put before a command line to run it on this node."""
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        return ("nsenter", f"--net=/run/netns/{self.namespace}", *named)

    @property
    def bottle(self) -> Bottle:
        """`bottle` on this node."""
        own = {
            "HOME": str(self.folder),
            "BOT_BOTTLE_STATE_DIR": str(self.folder / "state"),
            "PATH": f"{self.programs}:{self.engine.get('PATH') or os.environ['PATH']}",
        }
        mark = f"{self.folder.parent.name}-{self.name}"
        return Bottle(
            self.folder / "cache", {**self.engine, **self.auth, **_SMALL, **own}, mark, prefix=self.prefix
        )

    @property
    def programs(self) -> Path:
        """A folder whose programs are this node's alone."""
        return self.folder / "bin"

    def start(self) -> None:
        """Start Ray with the resources that `bottle node` prints; it has not joined yet."""
        role = ("--head", f"--port={PORT}", f"--ray-client-server-port={CLIENT}", "--include-dashboard=false")
        joining = (f"--address={_NET}.2:{PORT}",)
        common = (
            "--memory=8000000000 --object-store-memory=100000000 --include-log-monitor=false --block "
            f"--node-ip-address={self.address} --temp-dir={self.folder}/r --disable-usage-stats"
        )
        argv = [_RAY, "start", *(role if self.name == HEAD else joining), *common.split(), *self._announced()]
        (self.folder / "log").unlink(missing_ok=True)
        with (self.folder / "log").open("wb") as log:
            # Ray ends when these tests are killed
            ended = ("setpriv", "--pdeathsig=TERM", *self.prefix)
            self.started.append(
                subprocess.Popen(
                    [*ended, *argv], env=self.bottle.env(), stdout=log, stderr=log, start_new_session=True
                )
            )

    def _announced(self) -> list[str]:
        ended = self.bottle("node", "--options", "--slots", str(self.slots))
        assert ended.code == 0, ended
        return ended.out.split()

    def wait(self) -> None:
        """Wait until Ray runs."""
        log = self.folder / "log"

        def runs() -> bool:
            assert self.started[-1].poll() is None, log.read_text()
            return "runtime started" in log.read_text()

        wait_until(runs, 90, pause=0.1)

    def pids(self, word: str = "") -> list[int]:
        """Return the processes on this node, those whose command line has a word."""
        mark = f"BOT_BOTTLE_TEST_MARK={self.bottle.mark}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                    if word.encode() in words:
                        found.append(int(process.name))
        return found

    def kill(self) -> None:
        """Kill Ray and everything else that runs on this node but its engine, at once."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
        self._reap()  # what has ended by itself
        self.started.clear()

    def _reap(self) -> None:
        for process in self.started:
            process.wait(30)

    def docker(self, *args: str) -> str:
        """Run the docker client of this node's engine."""
        return call(["docker", *args], self.bottle.env()).decode()

    def bottles(self) -> dict[str, str]:
        """The containers of the bottles that run on this node, by the names of the bottles."""
        shown = '{{.Label "bot-bottle.bottle"}} {{.ID}}'
        lines = self.docker("ps", "--filter", "label=bot-bottle.bottle", "--format", shown).splitlines()
        return dict(sorted((name, each) for name, each in map(str.split, lines)))

    def containers(self) -> list[str]:
        """All containers of this node's engine."""
        return [] if self.name == HEAD else self.docker("ps", "-aq").split()

    def images(self) -> list[str]:
        """The images that this node's engine has loaded for fans."""
        listing = ("image", "ls", "--format", "{{.Tag}}", "localhost/bot-bottle-fan")
        return [] if self.name == HEAD else self.docker(*listing).split()

    def clean(self) -> None:
        """Remove all that there is."""
        self.kill()
        if found := self.containers():
            self.docker("rm", "--force", *found)
        for each in self.images():
            self.docker("image", "rm", f"localhost/bot-bottle-fan:{each}")

    def runs(self) -> list[int]:
        """The processes of Ray that run a bottle, or the fan."""
        return [*self.pids("ray::run_on_node"), *self.pids("ray::Fan"), *self.pids("cluster.attempt")]

    def leftovers(self) -> list[str]:
        """What bottles that have ended must not leave on this node."""
        own = [str(pid) for pid in self.runs()]
        return [*own, *self.bottle.scraps(), *self.containers(), *self.images()]

    def memory_with(self, value: bytes) -> list[str]:
        """The processes of Ray itself whose memory, the object store among it, holds a value."""
        pids = [*self.pids("raylet/raylet"), *self.pids("gcs_server")]
        return [f"{self.name} {pid}" for pid in pids if remembers(pid, value)]


@dataclass(frozen=True)
class Nodes:
    """The cluster, by the names of its nodes. `auth` are the variables of those who may use it."""

    folder: Path
    namespace: str
    nodes: dict[str, Node]
    auth: dict[str, str]

    @property
    def address(self) -> str:
        """What --on takes."""
        return f"ray://{_NET}.2:{CLIENT}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What is put before a caller's command line."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}")

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def workers(self) -> list[Node]:
        """The nodes that have an engine."""
        return [node for node in self.nodes.values() if node.name != HEAD]

    def restart(self, name: str) -> None:
        """Start a node anew that was killed."""
        self[name].start()
        self[name].wait()

    def runs(self) -> list[int]:
        """The processes of Ray that run a bottle, or the fan."""
        return [pid for node in self.nodes.values() for pid in node.runs()]

    def leftovers(self) -> list[str]:
        """What bottles that have ended must not leave anywhere."""
        return [f"{node.name}: {each}" for node in self.nodes.values() for each in node.leftovers()]


@contextmanager
def nodes(
    engines: Mapping[str, Mapping[str, str | None]], slots: int = 2, *, token: bool = True, tls: bool = False
) -> Iterator[Nodes]:
    """Run a cluster of a head without an engine and a node for each of these. `slots`: bottles at a time."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_FOLDERS))  # short: Ray has sockets in it
    (folder / "owner").write_text(OWNER)
    name = f"{_PREFIX}-{OWNER}"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        auth = {**_token(folder, is_on=token), **(_certificates(folder, len(engines) + 1) if tls else {})}
        stack.callback(_sweep, name)
        _bridge(name)
        made: dict[str, Node] = {}
        for number, (each, engine) in enumerate({HEAD: {}, **engines}.items(), 2):
            namespace = f"{name}-{number}"
            address = _join(name, namespace, number)
            home = folder / each
            (home / "bin").mkdir(parents=True)
            # without an engine of its own a node has none
            own = engine or {"DOCKER_HOST": f"unix://{home}/none.sock", "BOT_BOTTLE_ENGINE": "docker"}
            made[each] = Node(each, address, namespace, home, own, auth, slots)
            stack.callback(made[each].clean)
            made[each].clean()  # its engine may have some of a test run that was killed
        made[HEAD].start()
        made[HEAD].wait()
        for node in (others := [made[each] for each in engines]):
            node.start()
        for node in others:
            node.wait()
        yield Nodes(folder, name, made, auth)


def _token(folder: Path, *, is_on: bool) -> dict[str, str]:
    (folder / "token").write_text(secrets.token_hex(16))
    return {
        "RAY_AUTH_MODE": "token" if is_on else "disabled",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }


def _certificates(folder: Path, count: int) -> dict[str, str]:
    """Make one certificate for all nodes and callers, and return the variables with which Ray uses TLS."""
    certify(folder, "IP:127.0.0.1", *(f"IP:{_NET}.{number}" for number in range(2, count + 2)))
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "leaf.pem"),
        "RAY_TLS_SERVER_KEY": str(folder / "leaf.key"),
        "RAY_TLS_CA_CERT": str(folder / "ca.pem"),
    }


def _bridge(name: str) -> None:
    _ip("netns", "add", name)
    for command in (
        "link set lo up",
        "link add bridge type bridge",
        f"addr add {_NET}.1/{_BITS} dev bridge",
        "link set bridge up",
    ):
        _ip("-n", name, *command.split())


def _join(bridge: str, namespace: str, number: int) -> str:
    """Make a namespace that is connected to the bridge, and return its address."""
    address = f"{_NET}.{number}"
    _ip("netns", "add", namespace)
    _ip("-n", bridge, *f"link add v{number} type veth peer name eth0 netns {namespace}".split())
    _ip("-n", bridge, *f"link set v{number} master bridge up".split())
    for command in ("link set lo up", f"addr add {address}/{_BITS} dev eth0", "link set eth0 up"):
        _ip("-n", namespace, *command.split())
    return address


def _sweep(name: str = "") -> None:
    """Remove the namespaces of that name, or what test runs that were killed have left."""
    for each in Path("/run/netns").glob(f"{_PREFIX}-*"):
        owner = "-".join(each.name.removeprefix(f"{_PREFIX}-").split("-")[:2])
        if each.name.startswith(name) if name else not _lives(owner):
            _ip("netns", "delete", each.name)
    for file in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*/owner"):
        if not _lives(file.read_text()):  # Ray has ended with its owner
            shutil.rmtree(file.parent, ignore_errors=True)


def _lives(owner: str) -> bool:
    """Return whether a test run goes on, or has only begun."""
    pid, _, started = owner.partition("-")
    return not pid.isdigit() or start_time(int(pid)) == started


def _ip(*args: str) -> None:
    subprocess.run(("ip", *args), check=True, capture_output=True, timeout=60)
