"""A registry that is busy for a moment is asked again; one that stays so ends the command with the reason."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from tests.support.relay import Relay, Reply, busy_once

from bot_bottle.cache.cache import Cache
from bot_bottle.errors import RegistryError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.remote import artifact as remote
from bot_bottle.remote.pull import pull
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.retry import Retry
from bot_bottle.remote.session import BusyError, Session


@pytest.mark.parametrize(
    ("status", "stated"),
    [(429, "0"), (503, format_datetime(datetime.now(UTC), usegmt=True))],
    ids=["seconds", "date"],
)
def test_a_push_and_a_pull_go_on_when_a_busy_registry_says_so(
    reference: Reference, relay: Relay, artifact: Path, status: int, stated: str
) -> None:
    said: list[str] = []
    relay.answer = busy_once(status, stated)
    done = remote.push(Session(reference, retry=Retry(on_wait=said.append)), artifact, None, 1e9)
    assert done.sent == artifact.stat().st_size
    assert said[0] == f"the registry {reference.host} is busy or out of order; it is asked again in 0 s"
    assert len(relay.paths("PATCH", "uploads")) == 2
    relay.answer = busy_once(status, stated)
    entry, _ = pull(reference, None, Cache(paths.artifacts_dir()), Progress())
    assert entry.path.read_bytes() == artifact.read_bytes()


def test_an_upload_whose_end_was_not_answered_is_not_made_again(
    reference: Reference, relay: Relay, artifact: Path
) -> None:
    lost = [503]

    def change(method: str, path: str, reply: Reply) -> Reply:
        if method == "PUT" and "digest=" in path and lost:
            return lost.pop(), {"Retry-After": "0"}, b""
        return reply

    relay.change = change
    assert remote.push(Session(reference), artifact, None, 1e9).sent == artifact.stat().st_size
    assert not lost
    assert len(relay.paths("PATCH", "uploads")) == 1


def test_what_a_busy_registry_asks_for_has_a_limit(reference: Reference, relay: Relay) -> None:
    relay.answer = lambda *_: (429, {"Retry-After": "3600"}, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')
    with pytest.raises(BusyError, match="is busy or out of order") as refused:
        Session(reference).ask("GET", "manifests/1")
    assert refused.value.why == "429: TOOMANYREQUESTS (Retry-After: 3600)"
    assert len(relay.seen) == 1
    relay.seen.clear()
    relay.answer = lambda *_: (500, {"Retry-After": "0"}, b"")
    with pytest.raises(BusyError):
        Session(reference).ask("GET", "manifests/1")
    assert len(relay.seen) == 5


def test_an_upload_to_a_registry_that_stays_busy_ends(
    reference: Reference, relay: Relay, artifact: Path
) -> None:
    relay.answer = lambda method, *_: (503, {"Retry-After": "0"}, b"") if method == "PATCH" else None
    with pytest.raises(RegistryError, match="is busy or out of order"):
        remote.push(Session(reference), artifact, None, 1e9)
    assert len(relay.paths("PATCH", "uploads")) == 5
