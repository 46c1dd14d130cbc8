"""The state of agents on this machine: what is kept of a hostile tar, and how it is merged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bot_bottle.agent import state as states
from bot_bottle.agent.state import State, remove
from bot_bottle.errors import AgentError

PATHS = (".mine/sessions", ".mine/history", ".mine/db", ".mine/db-wal")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "state"))


def state(tmp_path: Path, agent: str = "mine", *, repository: str = "repo") -> State:
    return State(tmp_path / repository, agent, PATHS, frozenset({".mine/sessions/seeded"}))


def member(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o4755, 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(folder: Path, *members: tuple[tarfile.TarInfo, bytes], cut: int = 0) -> Path:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    path = folder / "brought.tar"
    path.write_bytes(target.getvalue()[: -cut or None])
    return path


def keep(where: State, brought: Path) -> None:
    with brought.open("rb") as file:
        where.keep(file)


def kept(where: State) -> dict[str, bytes]:
    target = io.BytesIO()
    if not where.copy_to(target):
        return {}
    target.seek(0)
    with tarfile.open(fileobj=target, mode="r:") as found:
        members = found.getmembers()
        assert all(each.isreg() and each.mode == 0o600 and not each.uid for each in members)
        assert not any(each.pax_headers for each in members)
        return {each.name: (found.extractfile(each) or io.BytesIO()).read() for each in members}


def test_regular_files_at_the_paths_of_the_profile_are_kept_and_nothing_else(tmp_path: Path) -> None:
    long = ".mine/sessions/" + "/".join(["folder" * 20] * 9)
    xattr = {"SCHILY.xattr.security.capability": "x", "LIBARCHIVE.creationtime": "1"}
    brought = tar(
        tmp_path,
        member(".mine/sessions", b"", type=tarfile.DIRTYPE),
        member(".mine/sessions/a", b"one", uid=1000, pax_headers=xattr),
        member(".mine/history"),
        member(long, mtime=-5),
        member(".mine/sessions/link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member(".mine/sessions/hard", b"", type=tarfile.LNKTYPE, linkname=".mine/sessions/a"),
        member(".mine/sessions/null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member(".mine/sessions/pipe", b"", type=tarfile.FIFOTYPE),
        member(".mine/sessions/seeded"),
        member(".mine/sessions/../../.ssh/authorized_keys"),
        member(".mine/sessions/./dot"),
        member("/.mine/sessions/absolute"),
        member(".mine/sessionsx"),
        member(".bashrc"),
        member(".mine/sessions/a/below-a-file"),
        member(".mine/sessions/a", b"a second one of the name"),
        member(".mine/sessions/" + "n" * 256),
    )
    where = state(tmp_path)
    assert where.kept() is None
    keep(where, brought)
    assert kept(where) == {".mine/sessions/a": b"one", ".mine/history": b"x", long: b"x"}
    [file] = (tmp_path / "state").rglob("*.tar")
    assert file.stat().st_mode & 0o777 == 0o600
    found = where.kept()
    assert found is not None
    assert (found.files, found.size) == (3, 5)
    assert not list((tmp_path / "state").rglob("partial"))


def test_what_comes_back_later_replaces_the_same_path_and_other_files_stay(tmp_path: Path) -> None:
    where = state(tmp_path)
    keep(where, tar(tmp_path, member(".mine/sessions/a"), member(".mine/db"), member(".mine/db-wal")))
    keep(where, tar(tmp_path, member(".mine/sessions/b"), member(".mine/sessions/a", b"two")))
    found = kept(where)
    assert found[".mine/sessions/a"] == b"two"
    assert sorted(found) == [".mine/db", ".mine/db-wal", ".mine/sessions/a", ".mine/sessions/b"]
    # a log of another copy of the database would damage it; a file takes the place of a folder
    keep(where, tar(tmp_path, member(".mine/db", b"new"), member(".mine/sessions")))
    assert kept(where) == {".mine/db": b"new", ".mine/sessions": b"x"}


def test_agents_and_repositories_do_not_share_and_it_can_be_removed(tmp_path: Path) -> None:
    where = state(tmp_path)
    others = [state(tmp_path, "other"), state(tmp_path, repository="repo2")]
    keep(where, tar(tmp_path, member(".mine/history")))
    assert [kept(each) for each in others] == [{}, {}]
    for each in others:
        keep(each, tar(tmp_path, member(".mine/history", each.agent.encode())))
    assert remove(where.repository, "mine") == ["mine"]
    assert [kept(each) for each in (where, *others)] == [
        {}, {".mine/history": b"other"}, {".mine/history": b"mine"}
    ]  # fmt: skip
    assert remove(where.repository) == ["other"]
    assert remove(where.repository) == []
    assert len(list((tmp_path / "state/agent-state").iterdir())) == 2  # the other repository, the lock


def test_what_is_damaged_or_too_large_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = state(tmp_path)
    keep(where, tar(tmp_path, member(".mine/history", b"first")))
    holes = {"GNU.sparse.major": "0", "GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1"}
    names = iter(range(100))
    cases: list[Callable[[], Path]] = [
        lambda: tar(tmp_path, member(".mine/history"), cut=9000),
        lambda: tar(tmp_path, member(".mine/history", pax_headers=holes)),
        lambda: tar(tmp_path, *(member(f".mine/sessions/{next(names)}") for _ in range(11))),
        lambda: tar(
            tmp_path, *(member(f"folder{next(names)}", b"", type=tarfile.DIRTYPE) for _ in range(11))
        ),
        lambda: tar(tmp_path, member(".mine/history", bytes(70_000))),
    ]
    monkeypatch.setattr(states, "MOST", 10)
    monkeypatch.setattr(states, "LIMIT", 65_536)
    for case in cases:
        with pytest.raises(AgentError):
            keep(where, case())
        assert kept(where) == {".mine/history": b"first"}
    # each is small enough, and both are not
    keep(where, tar(tmp_path, member(".mine/sessions/a", bytes(40_000))))
    with pytest.raises(AgentError, match="larger than"):
        keep(where, tar(tmp_path, member(".mine/sessions/b", bytes(40_000))))
    assert sorted(kept(where)) == [".mine/history", ".mine/sessions/a"]
    assert not list((tmp_path / "state").rglob("partial"))
