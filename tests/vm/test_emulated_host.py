"""The emulated host when its kernel does not come up, and what it reaches by itself."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from bot_bottle.bottle.gc import run_context
from bot_bottle.errors import BootError
from bot_bottle.host.progress import Progress
from bot_bottle.host.unix_sockets import connect
from bot_bottle.network.probes import canary
from bot_bottle.vm.channel import StreamRelay
from bot_bottle.vm.emulated.host import emulated_host, prepare_emulation
from bot_bottle.vm.emulated.namespace import Namespace


@pytest.mark.timeout(300)
def test_a_kernel_that_panics_is_reported_with_its_console(
    shared_cache: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = prepare_emulation(Progress("plain"))
    broken = tmp_path / "cache"
    folder = broken / files[0].parent.relative_to(shared_cache)
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file)
    (broken / "smolvm").symlink_to(shared_cache / "smolvm")
    (folder / files[1].name).unlink()
    (folder / files[1].name).write_bytes(b"")  # no first file system: the kernel finds no root
    monkeypatch.setenv("BOT_BOTTLE_CACHE_DIR", str(broken))
    with (
        run_context() as run,
        pytest.raises(BootError) as caught,
        emulated_host(run, Progress("plain"), memory_mib=256),
    ):
        pass
    error = caught.value
    assert error.message.startswith("the kernel of the emulated host panicked: VFS: Unable to mount root fs")
    assert "not ready within" not in error.why
    assert "Call Trace" in error.why
    assert str(folder) in error.next_step


# what the emulated host itself can reach where its network is the proxy's
TRIED = """
nc -w 5 127.77.0.2 3129 </dev/null
nslookup -type=a api.example.org 2>&1 | grep '^Address: '
for at in "127.77.0.2 {canary}" "127.0.0.1 {canary}" "127.77.0.3 53" "192.0.2.1 443" "10.0.2.2 {canary}"; do
  nc -w 5 $at </dev/null 2>&1 && echo "reached $at"
done
ip route add default via 127.77.0.2 dev eth0
for at in "192.0.2.1 443" "169.254.169.254 80" "198.18.0.2 {canary}"; do
  nc -w 5 $at </dev/null 2>&1 && echo "reached $at"
done
"""


@pytest.mark.slow  # what a bottle in it reaches is in test_nested and test_nested_proxy
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("shared_cache")
def test_its_only_network_can_be_the_sockets_of_a_proxy(cache_dir: Path, tmp_path: Path) -> None:
    del cache_dir
    asked = []

    def serve(listener: socket.socket) -> None:
        channel, _ = listener.accept()
        with channel:
            _, handles, _, _ = socket.recv_fds(channel, 1, 10)
            found = {kind: socket.socket(fileno=each) for kind, each in zip("idn", handles, strict=True)}
        with found["i"], found["i"].accept()[0] as client:
            client.sendall(b"from the proxy\n")
        with found["d"], found["n"]:
            while True:
                question, sender = found["d"].recvfrom(512)
                asked.append(question[12:-4])
                head = question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc0\0\2\7"
                found["d"].sendto(head + question[12:] + record, sender)

    with run_context() as run, socket.socket(socket.AF_UNIX) as listener, canary() as port:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        namespace = Namespace(tmp_path / "s")
        with emulated_host(run, Progress("plain"), memory_mib=256, namespace=namespace) as host:
            relay, out = StreamRelay(), bytearray()
            number = host._control.send("b", TRIED.replace("{canary}", str(port)))
            relay.drain(connect(host._folder, "outb"), out.extend)
            host._control.wait(number, 120)
            relay.finish()
            relay.close()
    lines = out.decode().splitlines()
    assert lines[:2] == ["from the proxy", "Address: 192.0.2.7"], lines
    assert not [line for line in lines if line.startswith("reached")]
    assert asked == [b"\3api\7example\3org\0"]
