"""An open network of an emulated microVM: names, published ports, ordinary users, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.bottle import Bottle, end, wait_until
from tests.support.callers import Caller, caller
from tests.support.confined import bare
from tests.support.engines import Docker
from tests.support.world import API, World, routed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PORT = 8005  # of this machine
# answers every question with one address; on the loopback, as systemd-resolved has it
NAMES = f"""
import dns.message, dns.rrset, socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.53", 53))
    print("ready", flush=True)
    while True:
        data, whom = server.recvfrom(2000)
        answer = dns.message.make_response(dns.message.from_wire(data))
        if answer.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(answer.question[0].name, 5, "IN", "A", "{API}"))
        server.sendto(answer.to_wire(), whom)
"""
ASK = f"""
import contextlib, socket
with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", {PORT}), 20) as client:
    client.sendall(b"asked")
    print(client.recv(100).decode())
"""
SERVE = """
cat /etc/resolv.conf
nslookup api.example.org | grep '^Address: '
nc -ll -p 3000 -e cat &
echo there
until [ -e /tmp/over ]; do sleep 0.2; done
"""


@contextmanager
def answering(world: World) -> Iterator[None]:
    """Run a resolver on the loopback of a world until the block ends."""
    argv = ["ip", "netns", "exec", world.name, sys.executable, "-c", NAMES]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def inhabitants(world: World) -> set[str]:
    """The processes in a world's network namespace, where passt is."""
    return {*_output("ip", "netns", "pids", world.name).split()}


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def started(who: Caller) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a bottle with an open network and a published port; give what it says before it serves."""
    own = ("--accel", "direct", "-m", "512m", "--name", "opened", "-p", f"{PORT}:3000", "--network", "open")
    child = who.bottle.start(
        "run", "-q", *own, "--archive", who.folder / "image.tar", "--", "sh", "-c", SERVE
    )
    assert child.stdout
    said = []
    for line in child.stdout:
        said.append(line.strip())
        if line == "there\n":
            return child, said
    raise AssertionError((said, end(child)))


@pytest.fixture(params=[0, 12345], ids=["root", "an-ordinary-user"])
def there(
    request: pytest.FixtureRequest,
    docker: Docker,
    image: str,
    outside: World,
    shared_cache: Path,
    tmp_path: Path,
) -> Iterator[Caller]:
    """Somebody in the world, whose resolver is on the loopback. No process stays there."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\nsearch example.org\n")
    resolving = ("sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(tmp_path / "resolv.conf"))
    uid: int = request.param
    with ExitStack() as stack:
        who = stack.enter_context(caller(uid, docker, None if uid else shared_cache))
        stack.enter_context(routed(outside))
        stack.enter_context(answering(outside))
        docker.docker("save", "--output", str(who.folder / "image.tar"), image)
        (who.folder / "image.tar").chmod(0o644)
        before = inhabitants(outside)
        bottle = replace(who.bottle, prefix=(*outside.prefix, *resolving, *who.bottle.prefix))
        yield replace(who, bottle=bottle)
        bottle.kill_started()
        wait_until(lambda: inhabitants(outside) <= before, 20)
        bottle("prune")
        assert bottle.leftovers == []


def test_names_are_resolved_and_a_published_port_answers(there: Caller, outside: World) -> None:
    child, said = started(there)
    assert said[:2] == ["nameserver 198.51.100.3", "search example.org"], said
    assert f"Address: {API}" in said, said
    ask = ("ip", "netns", "exec", outside.name, sys.executable, "-c", ASK)
    wait_until(lambda: _output(*ask) == "asked\n", 20)
    child.terminate()
    assert end(child).code != 0


def test_it_is_told_when_the_network_has_ended(there: Caller, outside: World) -> None:
    before = inhabitants(outside)
    child, _ = started(there)
    [passt] = [pid for pid in inhabitants(outside) - before if name(pid).startswith("passt")]
    subprocess.run(["kill", "-KILL", passt], check=True)
    assert there.bottle("exec", "opened", "--", "touch", "/tmp/over").code == 0
    ended = end(child)
    assert "the bottle's network has ended: nothing can be reached any more" in ended.err, ended
    assert ended.code == 119, ended


def test_a_bottle_that_is_killed_leaves_no_passt(there: Caller, outside: World) -> None:
    before = inhabitants(outside)
    child, _ = started(there)
    assert [pid for pid in inhabitants(outside) - before if name(pid).startswith("passt")]
    child.send_signal(signal.SIGKILL)
    assert end(child).code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("route", "prefix", "words"),
    [
        pytest.param(False, (), ("No external routable interface", "default route"), id="no-route"),
        pytest.param(True, bare(0), ("user namespace", "user.max_user_namespaces"), id="no-namespaces"),
    ],
)
def test_it_is_told_why_passt_does_not_start(
    docker: Docker,
    image: str,
    outside: World,
    shared_cache: Path,
    tmp_path: Path,
    route: bool,
    prefix: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    changes = {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")}
    bottle = Bottle(shared_cache, changes, prefix=(*outside.prefix, *prefix))
    with routed(outside) if route else nullcontext():
        done = bottle(
            *("run", "-q", "--accel", "direct", "-m", "512m", "--network", "open"),
            *("--archive", tmp_path / "image.tar", "--", "true"),
        )
    done.failed(119, "passt did not start", *words)
    assert bottle.leftovers == []


def name(pid: str) -> str:
    return Path("/proc", pid, "comm").read_text()
