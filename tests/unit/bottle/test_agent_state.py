"""A clone whose agent puts links where its state is read: nothing is followed, and it is said."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot_bottle.agent.state import State
from bot_bottle.backend.base import OnProved, Place
from bot_bottle.bottle.agent_state import StateTransfer
from bot_bottle.host.process import Completed
from bot_bottle.host.progress import Progress
from bot_bottle.network.probes import Proof
from bot_bottle.workspace.spec import Mount


@dataclass
class Guest:
    """A bottle whose guest does something to the clone instead of what it is asked for."""

    does: Callable[[], None]
    code: int = 0
    place: Place = "container"

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        raise NotImplementedError

    def run_before(self, command: tuple[str, ...]) -> int:
        raise NotImplementedError

    def run_after(self, command: tuple[str, ...]) -> Completed:
        self.does()
        return Completed(command, self.code, b"", b"\x1b[2J")


def tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as made:
        made.addfile(tarfile.TarInfo(".mine"))
    return target.getvalue()


def test_only_a_regular_file_in_the_clone_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "state"))
    work, outside = tmp_path / "work", tmp_path / "outside"
    outside.mkdir()
    (outside / "bottle-state").write_bytes(tar())
    state = State(tmp_path / "repo", "mine", (".mine",))
    at = work / ".git/bottle-state"

    def said(does: Callable[[], None], code: int = 0, *, packed: bool = True) -> str:
        shutil.rmtree(work, ignore_errors=True)
        at.parent.mkdir(parents=True)
        shown = io.StringIO()
        transfer = StateTransfer(state, Progress("plain", shown))
        with transfer.placed(Mount(work)) as before:
            assert bool(before) == at.exists() == (state.kept() is not None)
            if packed:
                transfer.pack(Guest(does, code))
            else:
                does()
        assert not os.path.lexists(at) or at.parent.is_symlink()
        return shown.getvalue()

    def replace_git() -> None:
        shutil.rmtree(at.parent)
        at.parent.symlink_to(outside)

    def brought() -> None:
        at.write_bytes(tar())

    cases = [replace_git, lambda: at.symlink_to(outside / "bottle-state"), lambda: os.mkfifo(at)]
    for case in cases:
        assert "warning: the state of mine is not kept" in said(case)
        assert state.kept() is None
    assert (outside / "bottle-state").read_bytes() == tar()
    assert "is not kept: \\x1b[2J" in said(brought, 5)
    assert said(lambda: None) == ""  # the agent has left nothing
    assert said(brought, packed=False) == ""  # it was killed
    assert state.kept() is None
    assert said(brought) == ""
    assert state.kept() is not None
    assert "of earlier bottles" in said(at.unlink)
