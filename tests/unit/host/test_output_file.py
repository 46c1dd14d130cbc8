"""A result goes to the path that was named, and what is there is never turned into something else."""

from __future__ import annotations

import io
import os
import pty
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_bottle.errors import ArtifactError, BottleError, UsageError
from bot_bottle.host.output_file import find_output

DATA = os.urandom(3_000_000)

# a process of its own, so that /dev/stdout and /dev/fd are what its caller made them
PROGRAM = """
import os, sys
from pathlib import Path
from bot_bottle.errors import BottleError
from bot_bottle.host.output_file import find_output
if len(sys.argv) > 3:
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
try:
    with open(sys.argv[1], "rb") as source:
        find_output(Path(sys.argv[2])).write(source)
except BottleError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(DATA)
    return path


def write(artifact: Path, output: Path) -> None:
    with artifact.open("rb") as source:
        find_output(output).write(source)


def write_elsewhere(
    artifact: Path, output: str, *user: str, **streams: object
) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-c", PROGRAM, str(artifact), output, *user]
    return subprocess.run(argv, timeout=60, stderr=subprocess.PIPE, **streams)  # type: ignore[call-overload,no-any-return]


# --- files and links


def test_a_new_file_has_the_permissions_of_a_new_file(artifact: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(artifact, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_file_is_replaced_in_one_step_and_stays_as_private_as_it_was(
    artifact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("what was there")
    out.chmod(0o600)
    with out.open() as reader:
        write(artifact, out)
        assert reader.read() == "what was there"
    assert out.read_bytes() == DATA
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir() if "out" in path.name} == {"out"}


@pytest.mark.parametrize("links", [["real/file"], ["second", "third", "real/file"], ["dir/file"]])
def test_a_link_stays_and_its_file_is_replaced(artifact: Path, tmp_path: Path, links: list[str]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "real/file").write_text("old")
    names = ["out", *links[:-1]]
    for name, target in zip(names, links, strict=True):
        (tmp_path / name).symlink_to(target)
    write(artifact, tmp_path / "out")
    assert [str((tmp_path / name).readlink()) for name in names] == links
    assert (tmp_path / "real/file").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("missing")
    with pytest.raises(UsageError, match="symbolic link to missing, which is missing"):
        find_output(tmp_path / "out")
    assert str((tmp_path / "out").readlink()) == "missing"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("other")
    (tmp_path / "other").symlink_to("out")
    with pytest.raises(BottleError):
        find_output(tmp_path / "out")


@pytest.mark.root
def test_a_file_that_must_not_be_written_is_not_replaced(artifact: Path, tmp_path: Path) -> None:
    """Root may write it all the same, so another user tries."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[: len(tmp_path.parents) - 2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    out = tmp_path / "out"
    out.write_text("protected")
    out.chmod(0o444)
    done = write_elsewhere(artifact, str(out), "65534")
    assert done.returncode == 1
    assert b"Permission denied" in done.stderr
    assert out.read_text() == "protected"


# --- what is no file


@pytest.mark.root
@pytest.mark.parametrize("link", [False, True])
def test_a_device_and_a_link_to_it_stay(artifact: Path, tmp_path: Path, link: bool) -> None:
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    out = tmp_path / "null"
    if link:
        out = tmp_path / "out"
        out.symlink_to("null")
    before = (tmp_path / "null").stat()
    write(artifact, out)
    after = (tmp_path / "null").lstat()
    assert (after.st_mode, after.st_rdev, after.st_ino) == (before.st_mode, before.st_rdev, before.st_ino)
    assert out.is_symlink() == link


@pytest.mark.root
def test_a_full_device_is_a_full_disk(artifact: Path, tmp_path: Path) -> None:
    os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    with pytest.raises(OSError, match="No space left"):
        write(artifact, tmp_path / "full")
    assert stat.S_ISCHR((tmp_path / "full").lstat().st_mode)


def test_a_pipe_by_name_gets_the_bytes(artifact: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "out").read_bytes()))
    reader.start()
    write(artifact, tmp_path / "out")
    reader.join(60)
    assert received == [DATA]
    assert stat.S_ISFIFO((tmp_path / "out").stat().st_mode)


def test_a_pipe_by_name_whose_reader_goes_away_is_an_error(artifact: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")

    def read_little() -> None:
        with (tmp_path / "out").open("rb") as file:
            file.read(1)

    reader = threading.Thread(target=read_little)
    reader.start()
    with pytest.raises(ArtifactError, match="Broken pipe"):
        write(artifact, tmp_path / "out")
    reader.join(60)


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[dict[str, Path]]:
    (tmp_path / "directory").mkdir()
    (tmp_path / "to-directory").symlink_to("directory")
    os.mknod(tmp_path / "block", 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    os.mknod(tmp_path / "memory", 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        names = ("directory", "to-directory", "block", "memory", "socket")
        yield {name: tmp_path / name for name in names} | {"terminal": Path(os.ttyname(slave))}
    os.close(master)
    os.close(slave)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("directory", "directory"),
        ("to-directory", "directory"),
        ("block", "block device"),
        ("memory", "device of the system"),
        ("socket", "socket"),
        ("terminal", "terminal"),
    ],
)
def test_what_takes_no_stream_is_refused_and_stays(refused: dict[str, Path], kind: str, why: str) -> None:
    before = refused[kind].lstat()
    with pytest.raises(UsageError, match=why) as caught:
        find_output(refused[kind])
    assert str(refused[kind]) in str(caught.value)
    assert refused[kind].lstat().st_mode == before.st_mode


@pytest.mark.parametrize("place", ["missing/out", "file/out"])
def test_a_place_that_is_not_there_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        find_output(tmp_path / place)


# --- open files of this process


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "/proc/thread-self/fd/1"])
def test_standard_output_into_a_pipe_gets_the_bytes(artifact: Path, name: str) -> None:
    done = write_elsewhere(artifact, name, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, DATA)


def test_standard_output_into_a_file_goes_on_where_it_is(artifact: Path, tmp_path: Path) -> None:
    """`>> file` appends, and the file stays the one that the shell has opened."""
    out = tmp_path / "out"
    out.write_text("before ")
    inode = out.stat().st_ino
    with out.open("ab") as file:
        assert write_elsewhere(artifact, "/dev/stdout", stdout=file).returncode == 0
    assert out.read_bytes() == b"before " + DATA
    assert out.stat().st_ino == inode


def test_an_open_file_by_number_gets_the_bytes(artifact: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = write_elsewhere(artifact, f"/dev/fd/{file.fileno()}", pass_fds=(file.fileno(),))
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == DATA


def test_an_open_file_that_cannot_be_written_is_refused(artifact: Path, tmp_path: Path) -> None:
    with artifact.open("rb") as file:
        done = write_elsewhere(artifact, "/dev/stdin", stdin=file)
    assert b"open for reading only" in done.stderr
    master, slave = pty.openpty()
    done = write_elsewhere(artifact, "/dev/stdout", stdout=slave)
    os.close(master)
    os.close(slave)
    assert b"it is a terminal" in done.stderr
    with (tmp_path / "out").open("w") as file:
        done = write_elsewhere(artifact, f"/proc/{os.getpid()}/fd/{file.fileno()}")
    assert b"another process" in done.stderr
    assert artifact.read_bytes() == DATA


def test_finding_changes_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("old")
    for name in ("pipe", "file", "new"):
        find_output(tmp_path / name)
    assert (tmp_path / "file").read_text() == "old"
    assert not (tmp_path / "new").exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.FileIO):
        def readinto(self, _buffer: object) -> int:
            raise OSError(5, "Input/output error")

        def read(self, _size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    (tmp_path / "made").write_text("")
    with Broken(tmp_path / "made") as source, pytest.raises(ArtifactError, match="Input/output error"):
        find_output(tmp_path / "out").write(source)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
