"""What a user asked for, checked and frozen before anything is started."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.backend import BACKENDS, BackendName
from bot_bottle.backend.choice import backend_for
from bot_bottle.bottle.limits import Limits, check_budget
from bot_bottle.engine.source import Source
from bot_bottle.errors import SpecError, UsageError
from bot_bottle.git.spec import GitPush
from bot_bottle.host.sizes import parse_memory_size
from bot_bottle.network.policy import NOTHING, Policy, check_reading
from bot_bottle.network.ports import Port
from bot_bottle.structs import replace
from bot_bottle.vm.accel import Accel
from bot_bottle.workspace.spec import MODES, Request

if TYPE_CHECKING:
    from bot_bottle.agent.state import State
    from bot_bottle.secrets.reference import Reference
    from bot_bottle.workspace.lifecycle import Command

# smolvm's names are `[A-Za-z0-9][A-Za-z0-9_-]*`; ours have a prefix and stay readable
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[!-<>-~]+")  # of a variable; images have names such as `a.b`
# bytes; the limit of execve(2) is 128 KiB, and a longer name is used on the way
_LARGEST_VARIABLE = 127 << 10
_ALL_VARIABLES = 1 << 20  # bytes; the limit of execve(2) is a quarter of the stack (8 MiB) with the arguments

MINIMUM_MEMORY_MIB = 256
MINIMUM_STORAGE_MIB, MOST_STORAGE_MIB = 256, 8 << 20
DEFAULT_CPUS = 4


_NO_WORKSPACE = Request()
_NO_PUSH = GitPush()
_NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class BottleSpec:
    """One bottle to run. Empty fields mean: as in the image.

    `accel` says how microVMs run (see `vm.accel.choose_accel`). Without `storage_mib` a microVM has 20 GiB.
    With `ask` the user is asked about connections that the policy does not allow.
    `start` are commands that run before it, by name. `state` is what it gets of its agent's earlier bottles.
    With `remote_user`, the user is the one that the image's label for devcontainer.json has, where `user` is
    empty.
    """

    source: Source
    slug: str
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # values may be secrets
    secrets: tuple[Reference, ...] = ()
    user: str = ""
    workdir: str = ""
    cpus: int | None = None
    memory_mib: int = 4096
    storage_mib: int | None = None
    backend: BackendName = "smolmachines"
    workspace: Request = _NO_WORKSPACE
    egress: Policy = NOTHING
    ports: tuple[Port, ...] = ()
    git: GitPush = _NO_PUSH
    start: Mapping[str, Command] = field(default_factory=dict)
    remote_user: bool = False
    accel: Accel = "auto"
    ask: bool = False
    limits: Limits = _NO_LIMITS
    state: State | None = None

    def __post_init__(self) -> None:
        check_slug(self.slug)
        if self.backend not in BACKENDS:
            raise SpecError(f"no such backend: {self.backend!r}", next_step=f"use {' or '.join(BACKENDS)}")
        check_env(self.env)
        self._check_secrets()
        if self.workspace.mode not in MODES:
            raise SpecError(
                f"no such workspace: {self.workspace.mode!r}", next_step=f"use {', '.join(MODES)}"
            )
        if self.workspace.include_dirty and self.workspace.mode != "clone":
            raise UsageError("--workspace-include-dirty only works with --workspace clone")
        backend = backend_for(self.backend, self.accel)
        backend.check_env(dict(self.env))
        if self.storage_mib is not None:
            backend.check_storage(self.storage_mib)
        if self.ask:
            backend.check_ask()
        backend.check(self.egress, self.secrets, self.ports, archive=self.source.archive is not None)
        check_reading(self.egress, credentials=any(secret.hosts for secret in self.secrets))
        check_budget(self.limits.budget, self.egress, self.secrets)
        if self.git.remotes:
            self._check_git()
        self._check_command()

    @property
    def network(self) -> Policy:
        """The network policy; git's remotes are reached through the proxy."""
        return replace(self.egress, proxied=True) if self.git.remotes else self.egress

    def _check_git(self) -> None:
        if self.egress.open:
            raise SpecError(
                "--git-push needs the proxy, and an open network has none",
                next_step="allow hosts instead (--allow)",
            )
        from bot_bottle.git.server_process import check_backend

        check_backend()

    def _check_command(self) -> None:
        if self.workdir and not self.workdir.startswith("/"):
            raise SpecError(f"the working directory must be absolute: {self.workdir!r}")
        if self.user.startswith("-"):
            raise SpecError(f"invalid user: {self.user!r}", next_step="write it as name, uid or uid:gid")
        if self.cpus is not None and not 1 <= self.cpus <= 255:
            raise SpecError(f"a bottle has 1 to 255 CPUs, not {self.cpus}")
        if self.memory_mib < MINIMUM_MEMORY_MIB:
            raise SpecError(
                f"a bottle needs {MINIMUM_MEMORY_MIB} MiB of memory at least, not {self.memory_mib}"
            )

    def _check_secrets(self) -> None:
        if not self.secrets:
            return
        from bot_bottle.login.values import with_hosts

        names = {name for name, _ in self.env}
        passed_on = names | {name for name, _ in (self.source.build.build_args if self.source.build else ())}
        for each in self.secrets:
            if each.kind == "login" and not each.hosts:
                raise SpecError(f"the secret {each.name} is a login's, and needs hosts")
            with_hosts(each)
            if each.name in names:
                raise SpecError(f"{each.name} is given both as --env and as --secret", next_step="drop one")
            if each.kind == "env" and each.place in passed_on:
                raise SpecError(
                    f"{each.place} is passed on unchanged, but the secret {each.name} is read from it",
                    next_step=f"drop --env or --build-arg {each.place}",
                )
            if each.hosts:
                self._check_hosts(each)

    def _check_hosts(self, secret: Reference) -> None:
        """Check that the bottle may reach the hosts of a secret."""
        for host in secret.hosts:
            if not self.egress.decide(host, 443).allowed:
                raise SpecError(
                    f"the secret {secret.name} is for {host}, which is not allowed",
                    next_step=f"allow it with --allow {host}, or egress.allow in bottle.toml",
                )


def check_slug(slug: str) -> str:
    """Return a valid bottle name. Raises SpecError."""
    if not _SLUG.fullmatch(slug):
        raise SpecError(
            f"invalid bottle name: {slug[:100]!r}",
            next_step="use letters, digits, _ and -, 63 at most, a letter or digit first",
        )
    return slug


def make_slug(source: Source | Path) -> str:
    """Return a readable name: after the folder or image, with a random suffix that makes it unique."""
    stem = Path(str(source)).name.partition("@")[0]
    words = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()[:40] or "bottle"
    return f"{words}-{secrets.token_hex(3)}"


def parse_memory(text: str) -> int:
    """Parse a size as in docker's --memory (`512m`, `2g`; bytes without a unit) into MiB."""
    size = parse_memory_size(text)
    if size is None:
        raise SpecError(f"invalid memory size: {text[:50]!r}", next_step="write it as 512m or 4g")
    if size < 1 << 20:
        raise SpecError(
            f"{text.strip()[:50]} is {size} bytes, too little memory for a bottle",
            next_step="add a unit, for example 512m or 4g: without one it is bytes, as with docker",
        )
    if size >> 20 > 1 << 22:
        raise SpecError(f"too much memory: {text}")
    return size >> 20


def parse_storage(text: str | None) -> int | None:
    """Parse a disk's size (`512m`, `40g`; bytes without a unit) into MiB; None for none. Raises SpecError."""
    if text is None:
        return None
    size = parse_memory_size(text)
    if size is None or not MINIMUM_STORAGE_MIB <= size >> 20 <= MOST_STORAGE_MIB:
        raise SpecError(
            f"invalid size of the storage: {text[:50]!r}",
            why=f"it has to be {MINIMUM_STORAGE_MIB}m to {MOST_STORAGE_MIB >> 20}t",
            next_step="write it as 512m or 40g",
        )
    return size >> 20


def check_env(env: Iterable[tuple[str, str]]) -> None:
    """Refuse variables that cannot be passed to a command. Raises SpecError."""
    total = 0
    for name, value in env:
        if not _NAME.fullmatch(name) or "\0" in value:
            raise SpecError(f"invalid variable: {name[:50]!r}", next_step="use another name or value")
        try:
            size = len(f"{name}={value}".encode()) + 1  # with its NUL, as execve(2) counts it
        except UnicodeEncodeError:
            raise SpecError(
                f"the variable {name} is not UTF-8 text",
                why="engines and smolvm accept no other",
                next_step="encode it, or put it into a file of the workspace or the image",
            ) from None
        if size > _LARGEST_VARIABLE:
            raise SpecError(
                f"the variable {name} is too large: the limit is {_LARGEST_VARIABLE >> 10} KiB",
                why=f"it has {size} bytes, and Linux does not allow this",
                next_step="put it into a file of the workspace or the image",
            )
        total += size
    if total > _ALL_VARIABLES:
        raise SpecError(
            f"the variables are too large: the limit for all of them is {_ALL_VARIABLES >> 20} MiB",
            why=f"they have {total} bytes",
            next_step="put them into a file of the workspace or the image",
        )


def parse_env(items: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Parse `NAME=VALUE`, or `NAME` for its value here, as docker's --env does. Raises SpecError."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise SpecError(
                f"invalid variable name: {name[:50]!r}", next_step="write --env NAME=VALUE or --env NAME"
            )
        if equals:
            found[name] = value
        elif name in os.environ:  # docker omits a variable that is not set here
            found[name] = os.environ[name]
    check_env(found.items())
    return tuple(found.items())
