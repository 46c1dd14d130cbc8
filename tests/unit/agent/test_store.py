"""The packages in the cache are listed and removed by the commands of the cache."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from bot_bottle.cli.main import bottle


def test_they_are_listed_and_removed(cache_dir: Path) -> None:
    folder = cache_dir / "agents" / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / "layer.tar").write_bytes(b"x" * 5000)
    (folder / "about.json").write_text('{"agent": "claude", "version": "2.1.0"}')
    left = cache_dir / "agents" / ("b" * 64 + ".partial")
    left.mkdir()
    listed = CliRunner().invoke(bottle, ["cache", "ls"]).output
    assert listed.splitlines()[1].split()[:5] == ["agent", "claude", "2.1.0", "5.0", "kB"]
    would = CliRunner().invoke(bottle, ["cache", "prune", "--all", "-n"]).output
    assert "would remove the packages of claude 2.1.0, 5.0 kB" in would
    CliRunner().invoke(bottle, ["cache", "prune", "--older-than", "1h"])
    assert folder.exists()
    assert not left.exists()
    done = json.loads(CliRunner().invoke(bottle, ["cache", "prune", "--all", "--json"]).output)
    assert done["agents"] == ["claude@2.1.0"]
    assert [path.name for path in (cache_dir / "agents").iterdir()] == []
