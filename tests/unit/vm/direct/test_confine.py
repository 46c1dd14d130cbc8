"""What a program that is confined as QEMU is can see and do, tried by a program in QEMU's place."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.bottle import wait_until
from tests.support.confined import NOBODY, bare, command, nobody, try_confined
from tests.support.engines import CHECKOUT

from bot_bottle.vm.direct import confine
from bot_bottle.vm.direct.confine import confined

Try = Callable[..., dict[str, Any]]

ROOT = os.geteuid() == 0
# whom it works for, as far as we can be them: what runs a command as somebody, and the user's number
PEOPLE = [pytest.param((), None, id="ours")] + [
    pytest.param(prefix, uid, id=name, marks=pytest.mark.root)
    for name, prefix, uid in (
        ("nobody", nobody(), NOBODY),
        ("nobody-without-namespaces", bare(NOBODY), NOBODY),
        ("root-without-namespaces", bare(0), 0),
    )
]

# each is tried with what is in the arguments: a file of root's, one of the caller's, a folder, a process
ATTEMPTS = """
private, own, outside, process = sys.argv[1:]
reader = lambda path: lambda: open(path).read() and "read"
met("private file", reader(private))
met("own file", reader(own))
met("shadow", reader("/etc/shadow"))
met("passwd", reader("/etc/passwd"))
met("home", lambda: str(os.listdir(os.path.dirname(own))))
met("write outside", lambda: open(outside + "/made", "w").close())
met("write to /tmp", lambda: open("/tmp/made-by-a-test", "w").close())
met("write inside", lambda: open("made", "w").write("x") and "written")
met("run a shell", lambda: os.execv("/bin/sh", ["sh", "-c", "echo ran"]))
met("run from the folder", lambda: (os.chmod("made", 0o700), os.execv("made", ["made"])))
met("signal", lambda: os.kill(int(process), 0))
met("signal everybody", lambda: os.kill(-1, 0))
met("signal a thread", lambda: call(234, int(process), int(process), 0))
met("ptrace", lambda: str(call(101, 16, int(process), 0, 0)))
met("pidfd", lambda: str(call(434, int(process), 0)))
met("user namespace", lambda: str(call(272, 0x10000000)))
met("clone into one", lambda: str(call(56, 0x10000000 | 17, 0, 0, 0, 0)))
met("mount", lambda: str(libc.mount(b"none", b"/", b"none", 0x44000, None) and call(165, 0, 0, 0, 0, 0)))
met("keyring", lambda: str(call(250, 0, -3, 0)))
met("bpf", lambda: str(call(321, 0, 0, 0)))
met("io_uring", lambda: str(call(425, 1, 0)))
met("socket", lambda: socket.socket().close())
met("ipv6 socket", lambda: socket.socket(socket.AF_INET6).close())
met("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close())
met("raw socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
met("unix socket", lambda: socket.socket(socket.AF_UNIX).close())
met("become root", lambda: os.setuid(0))
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.capget(header, sets)
found["capabilities"] = list(sets)
found["bounding"] = [number for number in range(41) if libc.prctl(23, number) == 1]
found["no new privileges"] = libc.prctl(39, 0, 0, 0, 0)
found["seccomp"] = libc.prctl(21, 0, 0, 0, 0)
found["user"] = [*os.getresuid(), *os.getresgid()]
found["groups"] = os.getgroups()
found["variables"] = sorted(os.environ)
import resource
found["core"] = resource.getrlimit(resource.RLIMIT_CORE)
"""
REFUSED = {"EACCES", "EPERM", "ENOENT", "EROFS"}


@pytest.fixture
def somebody(tmp_path: Path) -> Callable[[int | None], Path]:
    """Make a folder that belongs to a user, with a place for a machine, in which only he may be."""

    def make(uid: int | None) -> Path:
        home = tmp_path / "home"
        for path in (home, home / "machine", home / "outside"):
            path.mkdir(mode=0o700)
        (home / "own").write_text("his own")
        (tmp_path / "private").write_text("not his")
        (tmp_path / "private").chmod(0o600)
        for path in (home, *home.rglob("*")) if uid else ():
            os.chown(path, uid or 0, uid or 0)
        for path in tmp_path.relative_to("/tmp").parents if uid else ():
            Path("/tmp", path).chmod(0o755) if path != Path() else None
        tmp_path.chmod(0o755)
        return home

    return make


@pytest.mark.parametrize(("prefix", "uid"), PEOPLE)
def test_it_sees_its_folder_and_can_do_nothing_else(
    somebody: Callable[[int | None], Path], prefix: Sequence[str], uid: int | None
) -> None:
    home = somebody(uid)
    private, own, outside = home.parent / "private", home / "own", home / "outside"
    arguments = [*map(str, (private, own, outside)), str(os.getpid())]
    tried = try_confined(home / "machine", ATTEMPTS, prefix, arguments=arguments)
    assert tried["code"] == 0, tried
    found, force = tried["found"], tried["force"]
    assert found.pop("write inside") == "written"
    assert found.pop("unix socket") == "ok"
    assert found.pop("capabilities") == [0] * 6
    assert (found.pop("no new privileges"), found.pop("seccomp")) == (1, 2)
    assert found.pop("core") == [0, 0]
    bounding, groups = found.pop("bounding"), found.pop("groups")
    users = {*found.pop("user")}
    assert set(found.pop("variables")) <= {"PATH", "HOME", "TMPDIR", "LC_ALL"}
    assert found.pop("become root") in ("EPERM", "EINVAL")  # the latter where there is no such user
    assert set(found.values()) <= REFUSED, found
    assert force["seccomp"] is True
    assert force["landlock"] > 0
    if ROOT and not uid:
        assert users == {tried["user"]}
        assert tried["user"] > NOBODY
        assert groups == []
    else:
        assert users == {uid or os.geteuid()}
    own_namespaces = (
        [] if "namespaces" in str(prefix) or "-c" in prefix else ["mount", "ipc", "uts", "network"]
    )
    assert [name for name in force["namespaces"] if name != "user"] == own_namespaces
    assert bounding == [] or not own_namespaces
    assert not list(outside.iterdir())
    assert not Path("/tmp/made-by-a-test").exists()


def ask(channel: socket.socket, port: int) -> tuple[bytes, list[int]]:
    """Ask for a connection to a port of the namespace."""
    channel.sendall(port.to_bytes(2, "big"))
    said, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    return said, descriptors


@pytest.mark.parametrize(("prefix", "uid"), PEOPLE[:2])
def test_a_network_leads_to_the_proxy_and_from_the_published_port_alone(
    somebody: Callable[[int | None], Path], prefix: Sequence[str], uid: int | None
) -> None:
    home = somebody(uid)
    paths = {"listen": home / "listen", "connect": home / "connect"}
    script = """
import fcntl, struct
server = socket.create_server(("127.0.0.2", 20000))
def devices():
    for index in range(1, 20):
        try:
            with socket.socket() as card:
                name = fcntl.ioctl(card, 0x8910, struct.pack("16si20x", b"", index))[:16]
                yield name.strip(b"\\0").decode()
        except OSError:
            pass
def connected(port, address="127.0.0.1"):
    with socket.socket() as plug:
        plug.settimeout(5)
        plug.connect((address, port))
        plug.sendall(b"asked")
        return plug.recv(10).decode()
found["devices"] = list(devices())
met("proxy", lambda: connected(3128))
met("loopback", lambda: connected(int(sys.argv[1])))
met("address", lambda: connected(443, "192.0.2.1"))
met("metadata", lambda: connected(80, "169.254.169.254"))
met("ipv6", lambda: socket.socket(socket.AF_INET6).close())
met("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
client, _ = server.accept()
client.sendall(b"published")
found["asked"] = client.recv(10).decode()
"""
    answers: list[bytes] = []
    with (
        socket.socket(socket.AF_UNIX) as listen,
        socket.socket(socket.AF_UNIX) as connect,
        socket.create_server(("127.0.0.1", 0)) as canary,
    ):
        for each, name in ((listen, "listen"), (connect, "connect")):
            each.bind(str(paths[name]))
            paths[name].chmod(0o666)
            each.listen()

        def serve() -> None:
            channel, _ = listen.accept()
            with channel, socket.socket(fileno=socket.recv_fds(channel, 1, 1)[1][0]) as listener:
                channel.close()
                answers.append(repr(listener.getsockname()).encode())
                with listener.accept()[0] as client:
                    answers.append(client.recv(10))
                    client.sendall(b"proxied")

        def publish() -> None:
            channel, _ = connect.accept()
            with channel:
                said, descriptors = ask(channel, 3001)
                answers.append(said)
                while not descriptors:  # until the program listens
                    said, descriptors = ask(channel, 3000)
                answers.append(said)
                with socket.socket(fileno=descriptors[0]) as made:
                    made.sendall(b"question")
                    answers.append(made.recv(10))

        threads = [threading.Thread(target=each, daemon=True) for each in (serve, publish)]
        for thread in threads:
            thread.start()
        tried = try_confined(
            home / "machine",
            script,
            prefix,
            network="relayed",
            relay={name: str(path) for name, path in paths.items()},
            ports={"3000": 20000},
            arguments=[str(canary.getsockname()[1])],
        )
        for thread in threads:
            thread.join(30)
    assert tried["code"] == 0, tried
    found = tried["found"]
    assert found.pop("proxy") == "proxied"
    assert found.pop("devices") == ["lo"]
    assert found.pop("asked") == "question"
    assert found == {
        "loopback": "ECONNREFUSED",
        "address": "ENETUNREACH",
        "metadata": "ENETUNREACH",
        "ipv6": "EPERM",
        "raw": "EPERM",
    }
    assert sorted(answers) == sorted([b"('127.0.0.1', 3128)", b"asked", b"n", b"y", b"published"])


@pytest.mark.root
@pytest.mark.parametrize("uid", [0, NOBODY])
def test_a_network_without_a_namespace_is_refused(somebody: Callable[[int | None], Path], uid: int) -> None:
    home = somebody(uid)
    tried = try_confined(home / "machine", "", bare(uid), network="relayed")
    assert tried["code"] == 125
    assert "QEMU cannot be confined: this machine allows no network namespaces" in tried["found"]["words"]


@pytest.mark.parametrize(("prefix", "uid"), PEOPLE[:2])
def test_disks_are_open_files_and_no_paths(
    somebody: Callable[[int | None], Path], prefix: Sequence[str], uid: int | None
) -> None:
    home = somebody(uid)
    disk = home / "outside/a disk, really"
    disk.write_bytes(b"contents")
    os.chown(disk, uid or -1, -1)
    script = f"""
found["arguments"] = sys.argv[1:]
found["read"] = os.pread(20, 10, 0).decode()
met("write to one for reading", lambda: os.write(20, b"x"))
met("write", lambda: str(os.pwrite(21, b"C", 0)))
met("path", lambda: open({str(disk)!r}).read())
"""
    arguments = [f"id=a,file={str(disk).replace(',', ',,')},format=raw", f"other={disk}.suffix", str(disk)]
    tried = try_confined(home / "machine", script, prefix, disks={str(disk): True}, arguments=arguments)
    assert tried["code"] == 0, tried
    added = ["-add-fd", "fd=20,set=1", "-add-fd", "fd=21,set=1"]
    assert tried["found"] == {
        "arguments": ["id=a,file=/dev/fdset/1,format=raw", *arguments[1:], *added],
        "read": "contents",
        "write to one for reading": "EBADF",
        "write": "1",
        "path": "ENOENT",
    }
    assert disk.read_bytes() == b"Contents"


PARENT = """
import sys, time
from pathlib import Path
from bot_bottle.host import process
from bot_bottle.vm.direct.confine import confined
*command, folder = sys.argv[1:]
with confined(command, Path(folder)) as made:
    with process.background(made.argv) as child:
        print(child.pid, flush=True)
        time.sleep(600)
"""


def test_it_ends_with_us_also_after_sigkill(tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    waits = "open('runs', 'w').close()\nimport time; time.sleep(600)"
    argv = [sys.executable, "-c", PARENT, *command(waits), str(machine)]
    parent = subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    wait_until((machine / "runs").exists)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists())
    parent.stdout.close()


@pytest.mark.root
def test_two_machines_have_different_users(tmp_path: Path) -> None:
    with confined(["/bin/true"], tmp_path) as one, confined(["/bin/true"], tmp_path) as other:
        assert one.user != other.user


@pytest.mark.root
def test_a_user_that_is_taken_is_not_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "_USERS", range(0x70000000, 0x70000002))
    with confined(["/bin/true"], tmp_path) as one, confined(["/bin/true"], tmp_path) as other:
        assert {one.user, other.user} == {0x70000000, 0x70000001}


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no program")
    program.chmod(0o755)
    with confined([str(program)], tmp_path) as made:
        done = subprocess.run(made.argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{program} could not be started: Exec format error\n"


def test_the_report_says_what_is_missing() -> None:
    nothing = confine.Confinement(None, (), 0, seccomp=False)
    assert nothing.missing() == ["namespaces", "Landlock", "a seccomp filter"]
    assert json.loads(json.dumps(nothing.described()))["landlock"] == 0


def test_a_trial_says_what_this_machine_has() -> None:
    found = confine.try_confinement()
    assert found.seccomp
    assert ("mount" in found.namespaces, found.user is not None) == (True, ROOT)
