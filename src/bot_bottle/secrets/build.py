"""Secrets and SSH agents for a build, not stored in the image: `RUN --mount=type=secret` and `type=ssh`.

docker and podman read them when the build begins. They read a file themselves; the value of a variable or of
a keychain's entry is in the environment of the engine's program, under a variable of ours. No value is on a
command line, and bottle redacts the values that it can read in all output.

Sources: docker buildx build --secret, --ssh; buildah-build(1); moby/buildkit session/secrets (500 KiB).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from msgspec import Struct

from bot_bottle.errors import SecretError, SpecError
from bot_bottle.host.redact import hide
from bot_bottle.secrets.reference import Reference, expanded, parse_one, read, read_file

LARGEST = 500 << 10  # bytes

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VARIABLE = "BOT_BOTTLE_BUILD_SECRET_"


class BuildSecret(Reference, frozen=True):
    """Where the value of the build secret `name` is. It has no hosts. Raises SpecError."""

    names: ClassVar[re.Pattern[str]] = _ID
    rule: ClassVar[str] = "the id of a build secret has letters, digits, _, . and -"
    example: ClassVar[str] = "--build-secret id=TOKEN,env=TOKEN or --build-secret id=TOKEN,src=FILE"


class Ssh(Struct, frozen=True):
    """An SSH agent for steps of the build: your own, or one with the keys or the socket in `paths`.

    Raises SpecError for an invalid id or path.
    """

    name: str
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.name) or any(not path or "\0" in path for path in self.paths):
            raise SpecError(
                f"not an SSH agent or key: {self.name[:80]!r}",
                next_step="write --ssh default, or --ssh ID=PATH with a private key or an agent's socket",
            )

    def __str__(self) -> str:
        return ",".join(self.paths) or "your agent"


class MountOptions(NamedTuple):
    """Options of the engine's command line for a build, and variables of its program."""

    argv: tuple[str, ...]
    env: dict[str, str]


def parse_build_secrets(items: Iterable[str]) -> dict[str, BuildSecret]:
    """Parse `--build-secret id=ID[,env=VARIABLE|,src=FILE|,keychain=SERVICE/ACCOUNT]`; return them by id.

    `id=ID` alone is the variable of that name. Raises SpecError, which never repeats the input.
    """
    secrets = [parse_one(item, BuildSecret) for item in items]
    if any(each.hosts or each.kind == "login" for each in secrets):
        raise SpecError(
            "a build secret cannot have hosts, or be a login", next_step=f"write {BuildSecret.example}"
        )
    return {each.name: each for each in secrets}


def parse_ssh(items: Iterable[str]) -> dict[str, Ssh]:
    """Parse `--ssh default|ID[=SOCKET|KEY[,KEY...]]`; return them by id. Raises SpecError."""
    parts = [item.partition("=") for item in items]
    return {name: Ssh(name, tuple(paths.split(",")) if equals else ()) for name, equals, paths in parts}


def resolve_mounts(secrets: Sequence[BuildSecret], ssh: Sequence[Ssh]) -> MountOptions:
    """Read the secrets, hide their values in output, and return options and variables for the build.

    Raises SecretError, which says where a value should be, and never contains one.
    """
    env: dict[str, str] = {}
    argv: list[str] = []
    for number, each in enumerate(secrets):
        if each.kind == "file":
            place = f"src={_checked_file(each)}"
        else:
            name = f"{_VARIABLE}{number}"
            place, env[name] = f"env={name}", read(each)
            hide(env[name])
        argv.append(f"--secret={_fields(f'id={each.name}', place)}")
    argv += [f"--ssh={_agent(each)}" for each in ssh]
    return MountOptions(tuple(argv), env)


def _checked_file(secret: BuildSecret) -> Path:
    path = expanded(secret.place).absolute()
    data = read_file(secret, path, LARGEST + 1)
    if len(data) > LARGEST:
        raise SecretError(
            f"the secret {secret.name} is too large: builders accept {LARGEST >> 10} KiB", why=str(path)
        )
    hide(data.decode("utf-8", "replace"))
    return path


def _fields(*fields: str) -> str:
    """Return one line of comma-separated values, as the engines read an option."""
    import csv  # only here: most builds have no secret
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _agent(ssh: Ssh) -> str:
    if not ssh.paths:
        if not os.environ.get("SSH_AUTH_SOCK"):
            raise SecretError(
                f"there is no SSH agent for --ssh {ssh.name}: SSH_AUTH_SOCK is not set",
                next_step=f"start one with `ssh-agent`, or give a key: --ssh {ssh.name}=PATH",
            )
        return ssh.name
    paths = [expanded(place).absolute() for place in ssh.paths]
    for path in paths:
        if not path.exists():
            raise SecretError(
                f"there is no SSH key or socket {path}", next_step="give a private key or an agent's socket"
            )
    return f"{ssh.name}={','.join(map(str, paths))}"
