"""The configuration of a proxy: a JSON file that is written for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field, to_builtins

from bot_bottle.host.files import write_private
from bot_bottle.network.usage import Budget


class ProxiedSecret(Struct, frozen=True):
    """Where the value of a secret is read from, and what it replaces in requests to which hosts.

    With `body` it also does in their bodies. Where it `changes`, the value in force is asked for by `name` on
    the channel that is the proxy's standard input (see `network.values`).
    """

    placeholder: str
    hosts: Sequence[str]
    pipe: str
    name: str = ""
    body: bool = False
    changes: bool = False


class ReadingConfig(Struct, frozen=True):
    """What reading encrypted requests needs.

    `folder` is for the key of an authority; `bundle` is written, with the authorities that the bottle is to
    trust.
    """

    folder: str
    bundle: str


class ProxyConfig(Struct, frozen=True):
    """The configuration. Paths are absolute.

    `services` are those of `Engine`. `ask` is the socket of `Questions`. `authorities` is a file of those
    that servers are checked against, the usual ones by default. `token` is a pipe with that of a smolvm, for
    the sockets of `Interceptor`. `upstreams` are pipes from which the URL of
    the upstream proxy for `https` and `http` is read, `no_proxy` are hosts that are reached without it, and
    `resolver` is the address and port of a DNS server, instead of this machine's resolver. `usage` is the
    file for what is used with the secrets, of which `budget` is the most. `packages` is the folder of the
    cache of packages.
    """

    policy: str
    log: str
    secrets: Sequence[ProxiedSecret] = ()
    reading: ReadingConfig | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    ask: str | None = None
    authorities: str | None = None
    token: str | None = None
    upstreams: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    resolver: tuple[str, int] | None = None
    usage: str | None = None
    budget: Budget = field(default_factory=Budget)
    packages: str | None = None

    def save(self, path: Path) -> None:
        """Write it, private to the user. Raises OSError."""
        write_private(path, json.dumps(to_builtins(self)))


def load_config(path: Path) -> ProxyConfig:
    """Read a configuration that `save` wrote. Raises OSError, ValueError."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    reading = document.pop("reading")
    secrets = [ProxiedSecret(**each) for each in document.pop("secrets")]
    budget = Budget(**document.pop("budget"))
    return ProxyConfig(
        **document,
        secrets=secrets,
        reading=None if reading is None else ReadingConfig(**reading),
        budget=budget,
    )
