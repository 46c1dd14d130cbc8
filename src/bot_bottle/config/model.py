"""The schema of bottle.toml: its keys and types, and the errors for a file that has others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bot_bottle.errors import SpecError
from bot_bottle.host.text import printable

T = TypeVar("T", bound=BaseModel)

_SHOWN = 5  # mistakes reported at once


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BuildSecretTable(_Table):
    """`[image.secrets.ID]`: where the value of a secret for the build is, which is one of the three."""

    env: str | None = Field(default=None, description="the variable of yours that has the value")
    file: str | None = Field(default=None, description="the file that has the value")
    keychain: str | None = Field(
        default=None, description="the keychain entry that has the value: `service/account`"
    )


class ImageTable(_Table):
    """`[image]`: what is built, or the name of an existing image.

    Paths are relative to the folder of the file and cannot leave it.
    """

    name: str | None = Field(
        default=None,
        description="an existing image to use instead of building one; pulled if the engine lacks it",
    )
    context: str | None = Field(default=None, description="the folder to build (default: that of the file)")
    dockerfile: str | None = Field(
        default=None, description="the Dockerfile (default: `Dockerfile` or `Containerfile` in the context)"
    )
    target: str | None = Field(default=None, description="the stage to build")
    args: dict[str, str] = Field(default={}, description="build arguments")
    secrets: dict[str, BuildSecretTable] = {}
    ssh: list[str] = Field(
        default=[],
        description="SSH agents that the build may use: `default`, or `ID=PATH` of a key or a socket",
    )


class EgressTable(_Table):
    """`[egress]`: what a bottle may reach. Entries are read by `network.rules`."""

    allow: list[str] = Field(
        default=[],
        description="hosts, `*.domains`, addresses, ranges and presets that it may reach, with or without "
        "`:port`, methods and a path",
    )
    host_ports: list[int] = Field(
        default=[], description="ports of this machine that it reaches as `host.bottle:PORT`"
    )
    open: bool | None = Field(default=None, description="`true`: unrestricted network")


class CachesTable(_Table):
    """`[caches]`: what bottles of this user share, without being able to change it for others."""

    packages: list[str] = Field(
        default=[],
        description="caches of packages that it uses, for hosts that it may reach: `npm`, `pypi`, `crates`, "
        "`go`, `debian`",
    )


class GitTable(_Table):
    """`[git]`: the remotes that a bottle may fetch from and push to, through bottle's own git server."""

    push: list[str] = Field(
        default=[],
        description="remotes of the repository that it may fetch from and push to, for example `origin`",
    )
    branches: list[str] = Field(
        default=[], description="branches that it may push, `*` matches anything (default: `bottle/*`)"
    )
    paths: list[str] = Field(
        default=[],
        description="protected paths that a push may change all the same, for example `.github/workflows`",
    )
    hold: bool | None = Field(
        default=None, description="`true`: nothing is pushed on before `bottle forward`"
    )
    secrets: bool | None = Field(default=None, description="`false`: pushes are not searched for secrets")


class SecretTable(_Table):
    """`[secrets.NAME]`: where a secret's value is, which is one of the three, and which hosts may have it."""

    env: str | None = Field(default=None, description="the variable of yours that has the value")
    file: str | None = Field(default=None, description="the file that has the value")
    keychain: str | None = Field(
        default=None, description="the keychain entry that has the value: `service/account`"
    )
    hosts: list[str] = Field(
        default=[], description="hosts whose HTTPS requests get the value; the bottle gets a placeholder"
    )
    body: bool | None = Field(
        default=None, description="`true`: the bodies of these requests get the value, not only their headers"
    )


class LimitsTable(_Table):
    """`[limits]`: how long a bottle may run, and what it may use. They are read by `bottle.limits`."""

    timeout: str | None = Field(
        default=None, description="most time for the command, for example `90s`, `10m` or `1h30m`"
    )
    requests: int | None = Field(default=None, description="most requests to the hosts of its credentials")
    tokens: int | None = Field(
        default=None, description="most tokens, of input and output, that the answers to these report"
    )


class AgentTable(_Table):
    """`[agent]`: the agent that works in the bottle. A file chooses one, and does not define it."""

    name: str | None = Field(default=None, description="an agent, as `bottle agents` lists them")
    version: str | None = Field(default=None, description="its version (default: that of `bottle agents`)")
    integrity: dict[str, str] = Field(
        default={}, description="the hashes that packages of this version have to have, by their names"
    )


class CacheTable(_Table):
    """`[cache]`: a cache of artifacts in a registry, behind the one on this machine."""

    remote: str | None = Field(
        default=None, description="a repository in a registry, `HOST/NAME`, that is asked for artifacts"
    )


class UserCacheTable(CacheTable):
    """`[cache]` of the user's own configuration."""

    trust: str | None = Field(
        default=None,
        description="a file of SSH keys, `allowed_signers`, of which one has to sign",
    )
    sign: str | None = Field(
        default=None, description="the SSH key that signs what is pushed, or its `.pub` file"
    )
    scan: bool | None = Field(
        default=None,
        description="`true`: what is pushed is searched for secrets first, and not pushed with some",
    )
    scan_exclude: list[str] = Field(
        default=[],
        description="patterns of paths in which findings are ignored, as `bottle scan --exclude` does",
    )


class UserFile(_Table):
    """A whole config.toml, the user's own."""

    cache: UserCacheTable = UserCacheTable()


class File(_Table):
    """A whole bottle.toml. What it leaves out is None or empty."""

    image: ImageTable = ImageTable()
    agent: AgentTable = AgentTable()
    backend: str | None = Field(
        default=None, description="`smolmachines` (a microVM) or `docker` (a container)"
    )
    workspace: str | None = Field(
        default=None, description="what it sees of the repository: `none`, `clone` or `mount`"
    )
    command: list[str] | None = Field(
        default=None, description="the command (default: the image's ENTRYPOINT and CMD)"
    )
    cpus: int | None = Field(
        default=None, description="number of CPUs (default: up to 4; 1 with --accel nested)"
    )
    memory: str | None = Field(default=None, description="most memory, for example `512m` or `4g`")
    storage: str | None = Field(
        default=None, description="most disk space for what a microVM writes (default: `20g`)"
    )
    limits: LimitsTable = LimitsTable()
    user: str | None = Field(
        default=None, description="user name, uid or uid:gid (default: the image's USER)"
    )
    workdir: str | None = Field(
        default=None, description="absolute folder to run in (default: the image's WORKDIR)"
    )
    env: dict[str, str] = Field(default={}, description="variables of the command")
    ports: list[str] = Field(
        default=[], description="ports to publish on 127.0.0.1: `HOST:GUEST`, or `GUEST` for a free host port"
    )
    egress: EgressTable = EgressTable()
    caches: CachesTable = CachesTable()
    git: GitTable = GitTable()
    cache: CacheTable = CacheTable()
    secrets: dict[str, SecretTable] = {}


def parse(document: Mapping[str, Any], place: str) -> File:
    """Check a document's keys and types. Raises SpecError, with the place of every mistake and a suggestion.

    Values are never repeated in the error: a file may contain secrets.
    """
    return parse_as(File, document, place)


def parse_as(model: type[T], document: Mapping[str, Any], place: str) -> T:
    """Check a document as `parse` does, by the schema of another file."""
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
    why = [
        _describe(model, [str(part) for part in each["loc"]], each["type"], each["msg"]) for each in mistakes
    ]
    if len(why) > _SHOWN:
        why[_SHOWN:] = [f"and {len(why) - _SHOWN} more"]
    raise SpecError(f"{place} cannot be used", why="\n".join(why), next_step=f"correct {place}")


def _describe(model: type[BaseModel], loc: list[str], kind: str, message: str) -> str:
    key = printable(".".join(loc), limit=80)
    place = loc[1:] if loc[:2] == ["image", "secrets"] else loc
    if place[0] == "secrets" and len(place) == 2:
        return f"{key}: a value is never written here; say where it is, with one of env, file and keychain"
    if kind != "extra_forbidden":
        return f"{key}: {message[:1].lower()}{message[1:]}"
    if place[0] == "secrets" and len(place) > 1:
        secret = SecretTable if place is loc else BuildSecretTable
        return f"{key}: no such key; the keys are {', '.join(secret.model_fields)}"
    known = [*model.model_fields]
    for table, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known += [f"{table}.{name}" for name in field.annotation.model_fields]
    meant = difflib.get_close_matches(key, known, n=1, cutoff=0.55)
    suggestion = f"did you mean {meant[0]}?" if meant else f"the keys are {', '.join(known)}"
    return f"{key}: no such key; {suggestion}"
