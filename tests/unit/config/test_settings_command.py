"""`bottle config` and `bottle init`: the order of flags, environment, file and default, as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bot_bottle.cli.main import bottle
from bot_bottle.errors import SpecError


def run(*args: str) -> Result:
    return CliRunner().invoke(bottle, [*args])


def settings(*args: str) -> dict[str, dict[str, Any]]:
    done = run("config", "--json", *args)
    assert done.exit_code == 0, done.output
    document: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return document


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("USER", "WORKDIR", "CPUS", "MEMORY"):
        monkeypatch.delenv(f"BOT_BOTTLE_{name}", raising=False)
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flags_over_environment_over_file_over_default(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings()["memory"] == {"value": "4g", "from": "default"}
    (repository / "bottle.toml").write_text('memory = "1g"\n')
    assert settings()["memory"] == {"value": "1g", "from": str(repository / "bottle.toml")}
    monkeypatch.setenv("BOT_BOTTLE_MEMORY", "2g")
    assert settings()["memory"] == {"value": "2g", "from": "BOT_BOTTLE_MEMORY"}
    assert settings("-m", "3g")["memory"] == {"value": "3g", "from": "--memory"}


def test_tables_are_joined_by_name(repository: Path) -> None:
    (repository / "bottle.toml").write_text('[env]\nA = "file"\nB = "file"\n[image.args]\nV = "1"\n')
    shown = settings("-e", "B=flag", "-e", "C=flag", "--build-arg", "W=2")
    assert shown["env.A"]["value"] == "file"
    assert {shown[f"env.{name}"]["from"] for name in "BC"} == {"--env"}
    assert shown["image.args.V"]["value"] == "1"
    assert shown["image.args.W"]["from"] == "--build-arg"


def test_what_was_given_as_a_variable_is_not_shown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "a secret")
    done = run("config", "-e", "KEY", "-e", "OTHER=a secret", "--build-arg", "THIRD=a secret")
    assert "env.KEY" in done.output
    assert "a secret" not in done.output


def test_paths_of_the_file_are_relative_to_it_from_every_subfolder(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "bottle.toml").write_text('[image]\ndockerfile = "agent/Dockerfile"\n')
    monkeypatch.chdir(repository / "sub")
    shown = settings()
    assert shown["image.context"]["value"] == str(repository)
    assert shown["image.dockerfile"]["value"] == str(repository / "agent" / "Dockerfile")


def test_a_path_that_is_given_is_where_the_file_is_looked_for(repository: Path) -> None:
    (repository / "bottle.toml").write_text("cpus = 7\n")
    assert settings("sub")["cpus"]["value"] is None
    assert settings("sub")["image.context"] == {"value": "sub", "from": "PATH"}
    (repository / "sub" / "bottle.toml").write_text("cpus = 3\n")
    assert settings("sub")["cpus"]["value"] == 3


def test_config_without_json_prints_a_table(repository: Path) -> None:
    (repository / "bottle.toml").write_text('command = ["a", "b c"]\n')
    lines = run("config").output.splitlines()
    [line] = [line for line in lines if line.startswith("command")]
    assert '["a", "b c"]' in line
    assert line.endswith("bottle.toml")


@pytest.mark.parametrize("agent", ["claude", "codex", "shell", None])
def test_init_writes_what_config_reads(repository: Path, agent: str | None) -> None:
    done = run("init", *(["--agent", agent] if agent else []))
    assert done.exit_code == 0
    value = settings()["command"]["value"]
    assert (value[0] if value else None) == {"shell": "sh"}.get(agent or "", agent)
    again = run("init")
    assert isinstance(again.exception, SpecError)
    assert "already exists" in str(again.exception)


def test_every_line_that_init_offers_is_right(repository: Path) -> None:
    run("init", "--agent", "shell")
    file = repository / "bottle.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# command")]
    offered = [line[2:] if line.startswith("# ") and " = " in line else line for line in lines]
    file.write_text("\n".join(offered))
    shown = settings()
    assert shown["cpus"]["value"] == 4
    assert shown["image.args.VERSION"]["value"] == "3"
    assert shown["env.DEBUG"]["value"] == "1"
