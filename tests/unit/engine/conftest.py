from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.fake_engines import Fake


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a shell script on PATH, where nothing else is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("BOT_BOTTLE_ENGINE", "DOCKER_BUILDKIT", "DOCKER_HOST", "CONTAINER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)

    def put(name: str, body: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
        program.chmod(0o755)
        return program

    return put
