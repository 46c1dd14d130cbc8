"""The probes' script, run by the real kit against servers on loopback."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bot_bottle.errors import WallsError
from bot_bottle.host.progress import Progress
from bot_bottle.network import probes
from bot_bottle.network.probes import ANY, Outcome, Probe
from bot_bottle.network.toolkit import prepare_toolkit
from bot_bottle.structs import replace

Run = Callable[[Sequence[Probe]], dict[str, Outcome]]
ANSWER = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"  # 192.0.2.1, of type A, for a minute


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_BOTTLE_CACHE_DIR", str(tmp_path_factory.mktemp("kit")))
        folder = prepare_toolkit(Progress())
        made = (folder / "busybox").stat().st_mtime_ns
        assert prepare_toolkit(Progress()) == folder
        assert (folder / "busybox").stat().st_mtime_ns == made
        assert {path.stat().st_mode & 0o777 for path in (folder, folder / "ld.so")} == {0o755}
    return str(folder / "ld.so"), "--library-path", str(folder), str(folder / "busybox")


@pytest.fixture
def run(busybox: Sequence[str]) -> Run:
    """Run probes here, in the kit's shell."""

    def here(tried: Sequence[Probe], *prefix: str) -> dict[str, Outcome]:
        text = probes.script(tried, seconds=1.0, busybox=busybox)
        done = subprocess.run(
            [*prefix, *busybox, "sh", "-c", text], capture_output=True, timeout=20, check=True
        )
        return probes.outcomes(done.stdout, tried)

    return here


def answered(message: bytes) -> bytes:
    """A name server's answer; it knows one name."""
    known = b"\5known" in message
    head = message[:2] + (b"\x81\x80" if known else b"\x81\x83") + bytes([0, 1, 0, known, 0, 0, 0, 0])
    return head + message[12 : message.index(b"\0", 12) + 5] + (ANSWER if known else b"")


class Stream(socketserver.BaseRequestHandler):
    """A name server and a proxy, on one port."""

    def handle(self) -> None:
        data: bytes = self.request.recv(1000)
        if data.startswith(b"CONNECT"):
            status = b"200 OK" if b"known" in data else b"403 no"
            self.request.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
        elif data:
            reply = answered(data[2:])
            self.request.sendall(len(reply).to_bytes(2, "big") + reply)
        self.request.recv(1)


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, here = self.request
        if b"mute" not in data:
            here.sendto(b"bo" if data.startswith(b"bottle") else answered(data), self.client_address)


class Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def port() -> Iterator[int]:
    with Tcp(("127.0.0.1", 0), Stream) as tcp, socketserver.UDPServer(tcp.server_address, Datagram) as udp:
        for server in (tcp, udp):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tcp.server_address[1]
        tcp.shutdown()
        udp.shutdown()


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that is ours and that nobody listens on."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        number: int = tcp.getsockname()[1]
        yield number
        del udp


def test_what_answers_is_open_and_what_does_not_is_told_apart(run: Run, port: int, closed: int) -> None:
    at = "127.0.0.1"
    tried = [
        Probe("tcp", "tcp", at, port),
        Probe("tcp-closed", "tcp", at, closed),
        Probe("udp", "udp", at, port),
        Probe("udp-closed", "udp", at, closed),
        Probe("dnstcp", "dnstcp", at, port, "known.example.org"),
        Probe("dnstcp-no", "dnstcp", at, port, "other.example.org"),
        Probe("dnstcp-closed", "dnstcp", at, closed, "known.example.org"),
        Probe("proxy", "proxy", at, port, "known.example.org:443"),
        Probe("proxy-no", "proxy", at, port, "other.example.org:443"),
        Probe("proxy-closed", "proxy", at, closed, "known.example.org:443"),
        Probe("icmp", "icmp", at),
    ]
    met = run([replace(probe, accepted=ANY - {"silent"}) for probe in tried])  # however busy the machine is
    assert met.pop("icmp") in ("open", "refused")  # whether we may ping depends on who we are
    assert met == {name: "open" if "-" not in name else "refused" for name in met}


def test_what_is_silent_takes_its_time_and_no_more(run: Run) -> None:
    with socket.socket() as full, socket.socket(type=socket.SOCK_DGRAM) as mute:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        mute.bind(("127.0.0.1", 0))
        place = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # more than it takes: the next one gets no answer
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(place)
        met = run([Probe("tcp", "tcp", *place), Probe("udp", "udp", *mute.getsockname())])
        for each in waiting:
            each.close()
    assert met == {"tcp": "silent", "udp": "silent"}


def test_a_long_timeout_is_cut_to_what_the_answers_of_others_took(busybox: Sequence[str], port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        tried = [
            Probe("udp", "udp", *mute.getsockname()),
            Probe("proxy", "proxy", "127.0.0.1", port, "known.example.org:443", accepted=frozenset({"open"})),
        ]
        text = probes.script(tried, seconds=3600, busybox=busybox)
        done = subprocess.run([*busybox, "sh", "-c", text], capture_output=True, timeout=60, check=True)
    assert probes.outcomes(done.stdout, tried) == {"udp": "silent", "proxy": "open"}


def test_what_begins_late_is_ended_all_the_same(busybox: Sequence[str]) -> None:
    """On a busy machine a tool may take longer to begin than its answer is waited for."""
    with socket.socket(type=socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        tried = [Probe("udp", "udp", *mute.getsockname())]
        text = probes.script(tried, seconds=0.3, busybox=busybox)
        late = text.replace("self() {", "self() { $bb sleep 2;")
        assert late != text
        done = subprocess.run(
            [*busybox, "sh", "-c", late],
            capture_output=True,
            timeout=20,
            check=True,
            restore_signals=False,  # as smolvm has it: a pipe that nobody reads ends nothing
        )
    assert probes.outcomes(done.stdout, tried) == {"udp": "silent"}


def test_this_machine_has_routes(run: Run) -> None:
    expected = "open" if len(Path("/proc/net/route").read_text().splitlines()) > 1 else "unreachable"
    assert run([Probe("routes", "routes")]) == {"routes": expected}


def test_what_comes_back_is_not_trusted() -> None:
    tried = [Probe(name, "routes") for name in ("a", "b", "c", "d")]
    output = b"a open\nb silent\nb open\nc fine\nx open\n\xff\xfe d open\n" + b"y" * 200_000
    assert probes.outcomes(output, tried) == {"a": "open", "b": "error", "c": "error", "d": "error"}
    proof = probes.judge(b"a silent\nb open\nc refused\nd unreachable\n", tried)
    assert not proof.ok
    assert proof.described()["b"] == {"outcome": "open", "ok": False}
    with pytest.raises(WallsError, match="b: open"):
        proof.require()
    probes.judge(b"a silent\nb silent\nc refused\nd unreachable\n", tried).require()


@pytest.mark.parametrize("bad", ["-e", "a b", "$(id)", "a;b", "a\nb"])
def test_a_target_is_never_a_command(bad: str) -> None:
    with pytest.raises(ValueError, match="target"):
        Probe("a", "tcp", bad, 1)
    with pytest.raises(ValueError, match="target"):
        Probe("a", "proxy", "192.0.2.1", 1, bad)
    with pytest.raises(ValueError, match="name"):
        Probe(bad, "tcp", "192.0.2.1", 1)
