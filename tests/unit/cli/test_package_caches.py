"""Which caches of packages a bottle uses, and that they need no grant."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle.bottle.grants import requested_grants
from bot_bottle.cli.bottle_spec import bottle_spec
from bot_bottle.cli.commands.run import command as run
from bot_bottle.cli.settings import settings
from bot_bottle.network.caches import load_caches

TOML = '[image]\nname = "x"\n[egress]\nallow = ["npm", "pypi"]\n[caches]\npackages = ["npm"]\n'


@pytest.mark.parametrize(
    ("options", "variable", "expected"),
    [
        ([], "", ["npm"]),
        (["--cache-packages", "pypi,go"], "", ["npm", "pypi", "go"]),
        ([], "pypi go", ["npm", "pypi", "go"]),
        (["--no-cache-packages"], "pypi", []),
        (["--network", "none"], "", []),
    ],
)
def test_caches_of_the_file_and_of_the_user_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], variable: str, expected: list[str]
) -> None:
    (tmp_path / "bottle.toml").write_text(TOML)
    monkeypatch.setenv("BOT_BOTTLE_CACHE_PACKAGES", variable)
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "state"))
    context = run.make_context("run", ["--backend", "docker", "--plan", *options, str(tmp_path)])
    with context:
        found = settings(context)
        assert bottle_spec(context, found).egress.caches == load_caches(expected)
        assert "caches.packages" not in requested_grants(found).asked
