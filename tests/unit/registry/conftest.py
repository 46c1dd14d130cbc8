"""A registry that is up, and a plain HTTP client for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.wire import Wire

from bot_bottle.registry.ephemeral import ephemeral_registry
from bot_bottle.registry.registry import Registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    with ephemeral_registry(push=True) as registry:
        yield registry


@pytest.fixture
def wire(registry: Registry) -> Iterator[Wire]:
    with Wire(registry.port, registry.prefix) as wire:
        yield wire
