"""The files of a bottle's proxy that others read and write too."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from bot_bottle.network.usage import Budget


class EgressFiles(Struct, frozen=True):
    """The log that a proxy writes, and the policy that it reads, again whenever it has changed.

    `ask` is the socket on which it asks about what it would refuse (see `questions`), if it is to ask.
    `usage` is the file in which it counts what is used with credentials, of which `budget` is the most.
    """

    log: Path
    policy: Path
    ask: Path | None = None
    usage: Path | None = None
    budget: Budget = field(default_factory=Budget)
