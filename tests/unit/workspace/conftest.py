"""Real repositories, and agents that do all kinds of things to their clones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.repos import Repo, make_repo

from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.repository import open_repository


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own: nothing depends on the settings of whoever runs the tests."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (folder / ".gitconfig").write_text("[user]\n name = Ada\n email = ada@example.com\n")
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every `user` starts as."""
    repo = make_repo(tmp_path_factory.mktemp("template") / "user")
    readme = "one\ntwo\nthree\nfour\nfive\n"
    repo.commit({"README": readme, "src/main.py": "print(1)\n", ".gitignore": "*.o\n"})
    repo.git("tag", "-a", "v1", "-m", "first")
    repo.git("switch", "-q", "-c", "private")
    repo.commit({"secret": "not for the bottle\n"})
    repo.git("switch", "-q", "main")
    repo.commit({"docs/a": "a\n"})
    return repo.top


@pytest.fixture
def user(template: Path, tmp_path: Path) -> Repo:
    """The user's repository: two commits, a tag, and something on another branch."""
    shutil.copytree(template, tmp_path / "user")
    return Repo(tmp_path / "user")


@pytest.fixture
def clone(user: Repo, tmp_path: Path) -> Clone:
    """A clone of it for a bottle named `ship`."""
    return create(tmp_path / "state/ship", open_repository(user.top), "ship")


@pytest.fixture
def agent(clone: Clone) -> Repo:
    """The clone as an agent has it."""
    return Repo(clone.work)
