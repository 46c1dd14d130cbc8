"""The file server of a share, asked as the guest's kernel asks, and as a hostile one would."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.bottle import wait_until

from bot_bottle.host import process
from bot_bottle.vm.direct.share import shared_folder
from bot_bottle.vm.direct.virtiofs import SOCKET, protocol
from bot_bottle.vm.direct.virtiofs.nodes import Nodes
from bot_bottle.vm.direct.virtiofs.operations import Files
from bot_bottle.vm.direct.virtiofs.owners import NOBODY, Owners
from bot_bottle.vm.direct.virtiofs.server import Server
from bot_bottle.vm.direct.virtiofs.virtqueue import BrokenGuest, Chain, Memory, Queue, Region

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK = 1, 2, 3, 4, 5, 6, 8, 9, 10
RENAME, LINK, OPEN, READ, WRITE, RELEASE, CREATE, READDIRPLUS, OPENDIR = 12, 13, 14, 15, 16, 18, 35, 44, 27
UID, GID = 1234, 5678


class Guest:
    """Sends requests as a guest's kernel does."""

    def __init__(self, top: Path, most: int = 1000) -> None:
        descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
        owners = Owners(os.geteuid(), os.getegid(), UID, GID)
        self.files = Files(Nodes(descriptor, most), owners)
        self.server = Server(self.files)

    def ask(self, opcode: int, node: int, body: bytes = b"", room: int = 70_000) -> bytes:
        """Return the answer; raise OSError for a refusal."""
        head = protocol.REQUEST.pack(protocol.REQUEST.size + len(body), opcode, 7, node, 0, 0, 0, 0, 0)
        memory = bytearray(room)
        size = self.server.answer(Chain(0, [memoryview(head + body)], [memoryview(memory)]))
        length, code, unique = protocol.ANSWER.unpack_from(memory)
        assert (length, unique) == (size, 7)
        if code:
            raise OSError(-code, os.strerror(-code))
        return bytes(memory[protocol.ANSWER.size : size])

    def find(self, name: str, folder: int = protocol.ROOT) -> int:
        """Return the node of a file."""
        [number] = struct.unpack_from("<Q", self.ask(LOOKUP, folder, name.encode() + b"\0"))
        return int(number)

    def open(self, node: int, flags: int) -> int:
        [handle] = struct.unpack_from("<Q", self.ask(OPEN, node, protocol.OPEN.pack(flags, 0)))
        return int(handle)

    def create(self, name: bytes, mode: int = 0o644, flags: int = os.O_RDWR) -> bytes:
        return self.ask(CREATE, protocol.ROOT, protocol.CREATE.pack(flags, mode, 0, 0) + name + b"\0")

    def read(self, name: str, folder: int = protocol.ROOT) -> bytes:
        return self.read_node(self.find(name, folder))

    def read_node(self, node: int) -> bytes:
        handle = self.open(node, os.O_RDONLY)
        data = self.ask(READ, node, protocol.READ.pack(handle, 0, 4096, 0, 0, 0, 0))
        self.ask(RELEASE, node, protocol.RELEASE.pack(handle, 0, 0, 0))
        return data


@pytest.fixture
def top(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").write_text("content")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def guest(top: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    monkeypatch.chdir("/proc/self/fd")
    return Guest(top)


def refused(guest: Guest, opcode: int, node: int, body: bytes) -> int:
    """Return the error of a request."""
    with pytest.raises(OSError) as error:  # noqa: PT011 - its number is returned
        guest.ask(opcode, node, body)
    return error.value.errno or 0


def test_the_callers_files_are_the_users(guest: Guest, top: Path) -> None:
    answer = guest.ask(LOOKUP, protocol.ROOT, b"file\0")
    found = protocol.ATTRIBUTES.unpack_from(answer, protocol.ENTRY.size)
    assert found[1] == 7
    assert found[11:13] == (UID, GID)
    if os.geteuid() == 0:
        os.chown(top / "file", 4242, 4242)
        answer = guest.ask(LOOKUP, protocol.ROOT, b"file\0")
        assert protocol.ATTRIBUTES.unpack_from(answer, protocol.ENTRY.size)[11:13] == (NOBODY, NOBODY)


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../secret", b"/etc/passwd", b"a/b", b"n" * 256])
def test_a_name_leads_nowhere_else(guest: Guest, top: Path, name: bytes) -> None:
    file = guest.find("file")
    for opcode, node, body in (
        (LOOKUP, protocol.ROOT, name + b"\0"),
        (MKDIR, protocol.ROOT, protocol.MAKE_FOLDER.pack(0o755, 0) + name + b"\0"),
        (MKNOD, protocol.ROOT, protocol.MAKE_NODE.pack(stat.S_IFREG | 0o644, 0, 0, 0) + name + b"\0"),
        (CREATE, protocol.ROOT, protocol.CREATE.pack(os.O_RDWR, 0o644, 0, 0) + name + b"\0"),
        (SYMLINK, protocol.ROOT, name + b"\0target\0"),
        (UNLINK, protocol.ROOT, name + b"\0"),
        (RENAME, protocol.ROOT, protocol.RENAME.pack(protocol.ROOT) + b"file\0" + name + b"\0"),
        (RENAME, protocol.ROOT, protocol.RENAME.pack(protocol.ROOT) + name + b"\0file\0"),
        (LINK, protocol.ROOT, protocol.LINK.pack(file) + name + b"\0"),
    ):
        assert refused(guest, opcode, node, body) in (errno.EINVAL, errno.ENAMETOOLONG)
    assert [path.name for path in top.iterdir()] == ["file"]


def test_a_link_is_not_followed(guest: Guest, top: Path) -> None:
    guest.ask(SYMLINK, protocol.ROOT, b"out\0../secret\0")
    link = guest.find("out")
    assert guest.ask(READLINK, link) == b"../secret"
    assert refused(guest, OPEN, link, protocol.OPEN.pack(os.O_RDONLY, 0)) == errno.ENXIO
    assert refused(guest, LOOKUP, link, b"passwd\0") == errno.ENOTDIR
    attributes = protocol.SET_ATTRIBUTES.pack(protocol.SET_SIZE, 0, 0, 0, *[0] * 10)
    assert refused(guest, SETATTR, link, attributes) == errno.EINVAL
    assert (top.parent / "secret").read_text() == "secret"
    assert refused(guest, CREATE, protocol.ROOT, protocol.CREATE.pack(os.O_RDWR, 0o644, 0, 0) + b"out\0")


def test_no_device_and_no_program_of_its_owner_is_made(guest: Guest, top: Path) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        body = protocol.MAKE_NODE.pack(kind | 0o666, 0x105, 0, 0) + b"dev\0"
        assert refused(guest, MKNOD, protocol.ROOT, body) == errno.EPERM
    for bits in (0o4755, 0o2755):
        attributes = protocol.SET_ATTRIBUTES.pack(protocol.SET_MODE, 0, *[0] * 9, bits, 0, 0)
        assert refused(guest, SETATTR, guest.find("file"), attributes) == errno.EPERM
        body = protocol.CREATE.pack(os.O_RDWR, bits, 0, 0) + b"made\0"
        assert refused(guest, CREATE, protocol.ROOT, body) == errno.EPERM
        body = protocol.MAKE_NODE.pack(stat.S_IFREG | bits, 0, 0, 0) + b"made\0"
        assert refused(guest, MKNOD, protocol.ROOT, body) == errno.EPERM
    assert [path.name for path in top.iterdir()] == ["file"]


def test_what_is_no_file_is_not_opened(guest: Guest, top: Path) -> None:
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{guest.files.nodes.folder(protocol.ROOT)}/socket")
        for name in ("pipe", "socket"):  # a server that opened the pipe would wait for ever
            assert refused(guest, OPEN, guest.find(name), protocol.OPEN.pack(os.O_WRONLY, 0)) == errno.ENXIO
            body = protocol.CREATE.pack(os.O_WRONLY, 0o644, 0, 0) + name.encode() + b"\0"
            assert refused(guest, CREATE, protocol.ROOT, body) == errno.ENXIO


def test_a_folder_that_is_replaced_by_a_link_stays_the_folder(guest: Guest, top: Path) -> None:
    (top / "folder").mkdir()
    (top / "folder/secret").write_text("mine")
    folder = guest.find("folder")
    (top / "folder").rename(top / "moved")
    (top / "folder").symlink_to(top.parent)
    assert guest.read("secret", folder) == b"mine"
    body = protocol.MAKE_FOLDER.pack(0o755, 0) + b"made\0"
    guest.ask(MKDIR, folder, body)
    assert (top / "moved/made").is_dir()
    assert not (top.parent / "made").exists()


def count() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_that_were_closed_for_lack_of_room_are_found_again(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc/self/fd")
    guest = Guest(top, most=16)
    for number in range(100):
        (top / str(number)).write_text(f"content {number}")
    nodes = [guest.find(str(number)) for number in range(100)]
    before = count()
    for number, node in enumerate(nodes):
        assert guest.read_node(node) == f"content {number}".encode()
    assert count() <= before + 1
    guest.ask(RENAME, protocol.ROOT, protocol.RENAME.pack(protocol.ROOT) + b"99\0renamed\0")
    assert guest.read("renamed") == b"content 99"
    (top / "0").unlink()
    (top / "0").symlink_to("../secret")  # another file at a name that is opened again
    assert refused(guest, OPEN, nodes[0], protocol.OPEN.pack(os.O_RDONLY, 0)) == errno.ESTALE


def test_an_unlinked_file_is_read_and_written_while_it_is_open(guest: Guest) -> None:
    node = guest.find("file")
    handle = guest.open(node, os.O_RDWR)
    guest.ask(UNLINK, protocol.ROOT, b"file\0")
    guest.ask(WRITE, node, protocol.WRITE.pack(handle, 0, 3, 0, 0, 0, 0) + b"new")
    assert guest.ask(READ, node, protocol.READ.pack(handle, 0, 100, 0, 0, 0, 0)) == b"newtent"
    found = protocol.ATTRIBUTES.unpack_from(
        guest.ask(GETATTR, node, protocol.GET_ATTRIBUTES.pack(protocol.OF_HANDLE, 0, handle)), 16
    )
    assert found[1] == 7
    assert found[10] == 0  # links


def test_only_what_was_written_is_asked_for_its_errors_when_it_is_closed(guest: Guest) -> None:
    node = guest.find("file")
    for flags, said in ((os.O_RDONLY, protocol.NO_FLUSH), (os.O_WRONLY, 0), (os.O_RDWR, 0)):
        answer = guest.ask(OPEN, node, protocol.OPEN.pack(flags, 0))
        assert protocol.OPENED.unpack(answer)[1] == said


def test_a_mapping_of_a_file_that_appends_is_written_where_it_is(guest: Guest, top: Path) -> None:
    node = guest.find("file")
    handle = guest.open(node, os.O_RDWR | os.O_APPEND)
    guest.ask(WRITE, node, protocol.WRITE.pack(handle, 0, 1, 0, 0, 0, 0) + b"+")
    guest.ask(WRITE, node, protocol.WRITE.pack(handle, 0, 1, protocol.FROM_CACHE, 0, 0, 0) + b"C")
    assert (top / "file").read_bytes() == b"Content+"


def test_a_listing_has_every_name_once(guest: Guest, top: Path) -> None:
    names = {f"{number}-{'x' * (number % 50)}" for number in range(500)} | {"file", ".", ".."}
    for name in names - {"file", ".", ".."}:
        (top / name).touch()
    handle = struct.unpack_from("<Q", guest.ask(OPENDIR, protocol.ROOT, protocol.OPEN.pack(0, 0)))[0]
    found, offset = [], 0
    while answer := guest.ask(
        READDIRPLUS, protocol.ROOT, protocol.READ.pack(handle, offset, 4096, 0, 0, 0, 0)
    ):
        assert len(answer) <= 4096
        while answer:
            answer = answer[protocol.ENTRY.size + protocol.ATTRIBUTES.size :]
            _, offset, length, _ = protocol.NAME.unpack_from(answer)
            found.append(answer[protocol.NAME.size :][:length].decode())
            answer = answer[protocol.NAME.size + length + -length % 8 :]
    assert len(found) == len(names)
    assert set(found) == names


def test_any_request_is_answered_or_refused(guest: Guest, top: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - the same requests each time
    for _ in range(20_000):
        body = chance.choice([b"", b"file\0", b"\0", b"x\0y\0"]) + chance.randbytes(chance.randrange(100))
        opcode, node = chance.randrange(55), chance.choice([0, 1, 2, 3, 1 << 63])
        length = chance.choice([0, 40, 40 + len(body), 1 << 31])
        head = protocol.REQUEST.pack(length, opcode, 1, node, 0, 0, 0, 0, 0)
        chain = Chain(0, [memoryview(head + body)], [memoryview(bytearray(70_000))])
        assert 0 <= guest.server.answer(chain) <= 70_000
    assert (top.parent / "secret").read_text() == "secret"
    assert {path.name for path in top.parent.iterdir()} == {"shared", "secret"}
    with pytest.raises(BrokenGuest):
        guest.server.answer(Chain(0, [memoryview(b"short")], []))


def queue_of(descriptors: list[tuple[int, int, int, int]]) -> tuple[Queue, Memory]:
    """Return a queue with one request, in 64 KiB of memory that the guest has at 0x1000."""
    content = memoryview(bytearray(0x10000))
    for index, each in enumerate(descriptors):
        struct.pack_into("<QIHH", content, 16 * index, *each)
    struct.pack_into("<HHH", content, 0x800, 0, 1, 0)
    queue = Queue(16, (0x500000, 0x500A00, 0x500800), enabled=True)
    return queue, Memory([Region(0x1000, 0x500000, content)])


@pytest.mark.parametrize(
    "descriptors",
    [
        [(0x1000, 16, 1, 0)],  # follows itself
        [(0x1000, 16, 1, 16)],  # after the table
        [(0x1000, 0x10001, 0, 0)],  # longer than the memory
        [(0, 16, 0, 0)],
        [((1 << 64) - 8, 16, 0, 0)],
        [(0x1010, 16, 4, 0), (0x1000, 16, 4, 0)],  # a table in a table
        [(0x1000, 15, 4, 0)],
    ],
)
def test_a_request_is_only_read_from_the_guests_memory(descriptors: list[tuple[int, int, int, int]]) -> None:
    queue, memory = queue_of(descriptors)
    with pytest.raises(BrokenGuest):
        list(queue.requests(memory))


def test_a_request_in_parts_is_read() -> None:
    queue, memory = queue_of([(0x5000, 10, 1, 2), (0, 0, 0, 0), (0x6000, 20, 2, 0)])
    [(chain, answers)] = queue.requests(memory)
    assert [len(view) for view in chain.readable] == [10]
    assert [len(view) for view in chain.writable] == [20]
    answers.add(chain, 20)
    assert struct.unpack_from("<HHII", memory.at(0x1000 + 0xA00, 12)) == (0, 1, 0, 20)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    folder = tmp_path / "machine"
    folder.mkdir(mode=0o700)
    return folder


def status_of(pid: int) -> dict[str, str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def test_the_server_has_no_rights_and_ends_with_its_block(top: Path, machine: Path) -> None:
    with shared_folder(top, UID, GID, (), machine) as share:
        # its last step, after the socket is there and before it accepts a connection
        wait_until(lambda: status_of(share.child.pid)["Seccomp"] != "0", 20)
        facts = status_of(share.child.pid)
        assert {facts[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == "2"
        assert (machine / SOCKET).stat().st_mode & 0o777 == 0o600
        mounts = Path(f"/proc/{share.child.pid}/mountinfo").read_text().splitlines()
        assert [line.split()[4] for line in mounts] == ["/", "/share"]
    assert share.child.code is not None


def test_the_server_ends_when_its_parent_is_killed(top: Path, machine: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from bot_bottle.vm.direct.share import shared_folder\n"
        "with shared_folder(Path(sys.argv[1]), 1, 1, (), Path(sys.argv[2])) as share:\n"
        "    print(share.child.pid, flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", program, str(top), str(machine)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20)


def test_qemu_ends_when_the_server_does(top: Path, machine: Path) -> None:
    with (
        shared_folder(top, UID, GID, (), machine) as share,
        process.background(["sleep", "60"]) as qemu,
    ):
        share.end_with(qemu)
        share.child.send(signal.SIGKILL)
        assert qemu.wait(20) == -signal.SIGKILL
