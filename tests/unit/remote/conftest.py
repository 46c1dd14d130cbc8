"""A registry that is up, one that changes what it says, and keys that sign."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.relay import Relay, relaying

from bot_bottle.registry.ephemeral import ephemeral_registry
from bot_bottle.registry.registry import Registry
from bot_bottle.remote.reference import Reference

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's logins and settings."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with ephemeral_registry(push=True) as registry:
        yield registry


@pytest.fixture
def relay(registry: Registry) -> Iterator[Relay]:
    with relaying(registry.port) as relay:
        yield relay


@pytest.fixture
def reference(registry: Registry, relay: Relay) -> Reference:
    """A place for an artifact in the registry, behind the relay."""
    return Reference(f"127.0.0.1:{relay.port}", f"{registry.prefix}/agent-{next(_NUMBERS)}", "1")


class Signers:
    """A key that is trusted, and one that is not."""

    def __init__(self, folder: Path) -> None:
        self.key, self.other = folder / "key", folder / "other"
        for path in (self.key, self.other):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            subprocess.run(argv, check=True, capture_output=True, timeout=60)
        self.trusted = folder / "allowed_signers"
        self.trusted.write_text(f"ci@example.org {self.key.with_suffix('.pub').read_text()}")


@pytest.fixture(scope="session")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("keys"))
