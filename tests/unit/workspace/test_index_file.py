"""What the index of a new clone records, and that git finds every change by it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.support.repos import Repo, make_repo

from bot_bottle.errors import WorkspaceError
from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.index_file import IndexFile
from bot_bottle.workspace.repository import open_repository


# entries differ by the length of an object's name alone
@pytest.fixture(params=["sha1", pytest.param("sha256", marks=pytest.mark.slow)])
def clone(request: pytest.FixtureRequest, tmp_path: Path) -> Clone:
    """A clone with many names, of all lengths, and with files that are not regular."""
    user = make_repo(tmp_path / "user", f"--object-format={request.param}")
    user.write({f"{'n' * number}/{number}": f"{number}\n" for number in range(1, 40)})
    user.write({"run": "#!/bin/sh\n", "ünïcode \n name": "x"})
    (user.top / "run").chmod(0o755)
    (user.top / "link").symlink_to("nowhere")
    (user.top / "folder").symlink_to("n")
    user.commit()
    other = make_repo(tmp_path / "other", f"--object-format={request.param}")
    other.commit({"x": "x\n"})
    user.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other.top, "sub")
    user.commit()
    return create(tmp_path / "state/ship", open_repository(user.top), "ship")


def recorded(repo: Repo, what: str) -> set[str]:
    """What the index says of its files."""
    shown = repo.git("ls-files", "--debug", ":!sub")
    return set(re.findall(rf"{what}: *([0-9]+)", shown))


def test_owners_are_those_of_the_bottle(clone: Clone) -> None:
    agent = Repo(clone.work)
    assert recorded(agent, "uid") == {str(os.geteuid())}
    clone.index_file.record_owner(4711, 0xFFFF_FFFE)
    assert (recorded(agent, "uid"), recorded(agent, "gid")) == ({"4711"}, {str(0xFFFF_FFFE)})
    assert len(agent.git("diff-files").splitlines()) == len(agent.git("ls-files", ":!sub").splitlines())
    assert agent.git("status", "--porcelain") == ""  # reads them all, and records our owner again
    assert agent.git("diff-files") == ""
    agent.git("fsck", "--strict")
    assert clone.index_file.path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["n/1", "run", "link"])
def test_a_change_that_is_made_at_once_is_seen(clone: Clone, name: str) -> None:
    """It leaves the size as it is, and is of the second in which the index was written, or seems to be."""
    clone.index_file.record_owner(os.geteuid(), os.getegid())
    path = clone.work / name
    before = path.lstat()
    if path.is_symlink():
        path.unlink()
        path.symlink_to("anywher")
    else:
        path.write_bytes(path.read_bytes().swapcase().replace(b"1", b"2"))
    written = clone.index_file.path.stat().st_mtime_ns
    os.utime(path, ns=(written, written), follow_symlinks=False)
    assert path.lstat().st_size == before.st_size
    assert Repo(clone.work).git("status", "--porcelain") == f" M {name}"


@pytest.mark.parametrize("cut", [0, 4, 11, 13, 60, 500])
def test_an_index_that_is_damaged_is_an_error(clone: Clone, cut: int) -> None:
    path = clone.index_file.path
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(WorkspaceError, match="cannot be read as an index"):
        IndexFile(path, clone.record.object_format).record_owner(1, 1)
    assert path.read_bytes() == data[:cut]


def test_the_users_repository_is_untouched(clone: Clone) -> None:
    user = clone.repository().top
    assert recorded(Repo(user), "uid") == {str(os.geteuid())}
    assert Repo(user).git("status", "--porcelain") == ""
