"""Published ports of a microVM lead in from this machine's loopback, and only allowed ones lead out."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support import nested
from tests.support.bottle import Bottle, end, wait_until
from tests.support.engines import Docker
from tests.support.host_service import service
from tests.vm.conftest import COMMAND

from bot_bottle.network.probes import canary

SERVE = """
nc -ll -p 3000 -e cat &
nc -ll -p 4000 -e sh -c 'read -r line; echo "got $line"' &
echo there
until [ -e /tmp/over ]; do sleep 0.2; done
"""


def listening(bottle: Bottle) -> set[tuple[str, int]]:
    """Where the bottle's processes listen, by the address in hexadecimal as the kernel has it."""
    own = set()
    for process in bottle.processes():
        for handle in Path("/proc", process.split()[0], "fd").iterdir():
            with suppress(OSError):
                own.add(str(handle.readlink()))
    rows = [
        row.split()
        for kind in ("tcp", "tcp6", "udp", "udp6")
        for row in Path("/proc/net", kind).read_text().splitlines()[1:]
    ]
    return {
        (row[1].partition(":")[0], int(row[1].partition(":")[2], 16))
        for row in rows
        if f"socket:[{row[9]}]" in own and row[3] in ("0A", "07")  # listening; bound, of UDP
    }


def asked(port: int, data: bytes) -> bytes:
    """Send all of it, then no more, and give all that comes back, until the connection ends or is broken."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plug:
        got = bytearray()

        def read() -> None:
            with suppress(ConnectionError):
                while more := plug.recv(1 << 16):
                    got.extend(more)

        reader = threading.Thread(target=read)
        reader.start()
        with suppress(ConnectionError):
            plug.sendall(data)
            plug.shutdown(socket.SHUT_WR)
        reader.join(60)
        return bytes(got)


@pytest.mark.timeout(600)
def test_a_server_answers_on_this_machines_loopback_alone(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")})
    named = free()
    own = ("--accel", "direct", "-m", "512m", "--name", "served", "--archive", tmp_path / "image.tar")
    child = bottle.start("run", *own, "-p", "3000", "-p", f"{named}:4000", "--", "sh", "-c", SERVE)
    try:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline() == "there\n", child.communicate()
        [receipt] = (tmp_path / "state" / "receipts").glob("*.json")
        found = listening(bottle)
        [echo] = {port for _, port in found} - {named}
        assert found == {("0100007F", named), ("0100007F", echo)}
        # the bottle's programs have been started, and listen some time after
        wait_until(lambda: asked(named, b"this\n") == b"got this\n", pause=0.5)
        wait_until(lambda: asked(echo, b"that\n") == b"that\n", pause=0.5)
        large = bytes(range(256)) * 4096
        assert asked(echo, large) == large
        again = bottle("run", *own[:-4], "--name", "other", *own[-2:], "-p", f"{named}:80", "--", "true")
        again.failed(101, f"cannot publish {named}:80", "in use")
    finally:
        child.terminate()
        ended = end(child)
    told = [line for line in ended.err.splitlines() if line.startswith("port ")]
    assert told == [
        f"port 3000 of the bottle is on 127.0.0.1:{echo}",
        f"port 4000 of the bottle is on 127.0.0.1:{named}",
    ]
    proof = json.loads(receipt.read_text())["proof"]
    assert all(each["ok"] for each in proof.values())
    assert {proof[each]["outcome"] for each in ("ipv4", "lan", "metadata")} == {"unreachable"}
    assert {proof[each]["outcome"] for each in ("gateway", "resolver")} <= {
        "refused",
        "unreachable",
        "silent",
    }
    for port in (named, echo):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    assert bottle.leftovers == []


REACH = """
echo direct | nc host.bottle {port} | tail -n1
wget -qO- http://host.bottle:{port}/proxied
echo other | nc -w 3 host.bottle {other} || echo closed
echo other | nc -w 3 10.0.2.2 {other} || echo closed
wget -O- http://host.bottle:{other}/ || echo closed
echo gateway | nc -w 3 10.0.2.2 {port} || echo closed
"""


@pytest.mark.timeout(600)
def test_an_allowed_port_of_this_machine_answers_by_name_and_no_other(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")})
    own = ("--accel", "direct", "-m", "512m", "--name", "ported", "--archive", tmp_path / "image.tar")
    with service() as port, service() as other:
        script = REACH.format(port=port, other=other)
        done = bottle("run", "-q", *own, f"--allow-host-port={port}", "--", "sh", "-c", script, timeout=400)
    assert done.out.splitlines() == ["heard direct", "heard GET /proxied HTTP/1.1", *["closed"] * 4], done
    [receipt] = (tmp_path / "state" / "receipts").glob("*.json")
    proof = json.loads(receipt.read_text())["proof"]
    assert all(each["ok"] for each in proof.values())
    assert proof[f"host-port-{port}"]["outcome"] == "open"
    assert proof["host-service"]["outcome"] == "refused"
    assert bottle.leftovers == []


def free() -> int:
    """Give a port that nobody listens at."""
    with canary() as port:
        return port


JOB = r"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/fast/home
export BOT_BOTTLE_CACHE_DIR=/fast/cache BOT_BOTTLE_STATE_DIR=/fast/state
unset DOCKER_HOST
mkdir /fast/home && cd /results
own='-d --cpus 1 -m 512m --name served --archive image.tar'
@bottle@ run $own -p 8080:3000 -- nc -ll -p 3000 -e echo hello > run 2>&1
cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 > listening
for i in $(seq 20); do
  busybox nc -w 20 127.0.0.1 8080 < /dev/null > answer 2> answer.err
  [ ! -s answer ] || break
  sleep 1
done
@bottle@ prove --json served > prove.json 2> prove.err
@bottle@ run -m 512m --archive image.tar -p 8080:80 -- true > taken 2>&1
echo $? > taken.status
@bottle@ stop -t 0 served > stop 2>&1
cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 > after
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_kvm_smolvm_listens(docker: Docker, image: str, shared_cache: Path, tmp_path: Path) -> None:
    results, fast = nested.provisions(docker, image, tmp_path)
    console = nested.run(JOB.replace("@bottle@", str(COMMAND[0])), results, fast, timeout=800)
    told = {path.name: path.read_text() for path in results.iterdir() if path.suffix != ".tar"}
    assert told.get("answer") == "hello\n", (told, console)
    places = {row.split()[1] for row in told["listening"].splitlines() if " local_address " not in row}
    assert places == {f"0100007F:{8080:04X}", f"{'0' * 24}01000000:{8080:04X}"}
    proof = json.loads(told["prove.json"])
    assert all(each["ok"] for each in proof.values()), told
    assert (proof["ipv4"]["outcome"], proof["resolver"]["outcome"]) == ("refused", "refused")
    assert (told["taken.status"], "cannot publish 8080:80" in told["taken"]) == ("101\n", True), told
    assert [row for row in told["after"].splitlines() if " 0A " in row] == []
