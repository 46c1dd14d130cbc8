"""Which version of an agent is used, and the hashes that its packages have to have.

The version is, first to last: that of `--agent NAME@VERSION`, that in bottle.toml, the one of the last
`bottle agents update`, and that of the profile. A version's hashes are in the profile, in bottle.toml, or
recorded when it was first fetched; from then on they have to stay the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from bot_bottle.agent import profile as profiles
from bot_bottle.agent.profile import Libc, Package, Profile
from bot_bottle.errors import AgentError, UsageError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.host.records import store_record
from bot_bottle.host.text import printable

_LIMIT = 1 << 20  # bytes of a record
_MOST = 200  # hashes in a record; the oldest are dropped


class Pin(Struct, frozen=True):
    """What a bottle.toml says of an agent: its version, and hashes by package name."""

    name: str
    version: str | None = None
    integrity: Mapping[str, str] = field(default_factory=dict)


class Agent(Struct, frozen=True):
    """An agent in one version. `hashes` are those of its packages that are known, by `NAME@VERSION`.

    `origin` says what chose the version. With `from_image` the image's own program is used.
    """

    profile: Profile
    version: str
    origin: str
    hashes: Mapping[str, str]
    from_image: bool = False

    @property
    def name(self) -> str:
        """The name of its profile."""
        return self.profile.name

    def packages(self, arch: str, libc: Libc | None) -> list[Package]:
        """Return its packages for an image, with their versions. Raises AgentError if there are none.

        Those whose hash is not known have none ("").
        """
        found = [
            self._in_version(each)
            for each in self.profile.packages
            if each.arch in (None, arch) and (each.libc in (None, libc))
        ]
        if sum(bool(each.program) for each in found) != 1:
            with_libc = f" with {libc}" if libc else ""
            raise AgentError(
                f"there is no package of {self.name} for {arch} images{with_libc}",
                next_step="use another base image (Debian's has glibc), or the agent in your image with "
                "--agent-from image",
            )
        return found

    def hashes_for(self, arch: str) -> dict[str, str]:
        """Return the hashes of its packages in this version that are known."""
        of_arch = [self._in_version(each) for each in self.profile.packages if each.arch in (None, arch)]
        return {each.key: each.integrity for each in of_arch if each.integrity}

    def depends_on_libc(self, arch: str) -> bool:
        """Return whether its packages differ by the image's C library."""
        return any(each.libc for each in self.profile.packages if each.arch in (None, arch))

    def _in_version(self, package: Package) -> Package:
        found = package.in_version(self.version)
        return found.with_integrity(self.hashes.get(found.key, ""))


def choose(text: str, pin: Pin | None = None) -> Agent:
    """Return the agent that `NAME[@VERSION]` names. Raises SpecError, UsageError, AgentError."""
    name, at, version = text.partition("@")
    profile = profiles.load(name)
    if at and not profiles.is_version(version):
        raise UsageError(
            f"not a version: {printable(version, limit=40)!r}", next_step=f"write --agent {name}@1.2.3"
        )
    record = read_record(name)
    own = pin if pin is not None and pin.name == name else None
    origin = "--agent"
    if not at and own is not None and own.version:
        version, origin = own.version, "bottle.toml"
    if not version and is_newer(record.version, profile.version):
        version, origin = record.version, "bottle agents update"
    if not version:
        version, origin = profile.version, "the profile"
    hashes = {**record.hashes}
    for each in profile.packages:
        hashes[each.in_version(profile.version).key] = each.integrity
    if own is not None and version == own.version:
        hashes |= _of_packages(profile, version, own.integrity)
    return Agent(profile, version, origin, hashes)


def is_newer(version: str, other: str) -> bool:
    """Return whether a version is newer than another, by the numbers in it."""
    return _numbers(version) > _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version.partition("-")[0]))


def _of_packages(profile: Profile, version: str, by_name: Mapping[str, str]) -> dict[str, str]:
    """Return hashes by `NAME@VERSION`, of those by name."""
    return {
        each.in_version(version).key: by_name[each.name] for each in profile.packages if each.name in by_name
    }


class Record(Struct, frozen=True):
    """What was recorded of an agent: the version of its last update, and the hashes of packages."""

    version: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


def read_record(name: str) -> Record:
    """Return the record of an agent; an empty one where there is none, or it cannot be read."""
    try:
        document: Any = json.loads(read_regular(_record_path(name), _LIMIT)[0])
        version, hashes = document["version"], document["integrity"]
        good = all(isinstance(each, str) for each in (version, *hashes, *hashes.values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Record()
    return Record(version, hashes) if good else Record()


def write_record(name: str, record: Record) -> None:
    """Write the record of an agent. Raises AgentError."""
    newest = dict(list(record.hashes.items())[-_MOST:])
    document = {"version": record.version, "integrity": newest}
    store_record(_record_path(name), document, AgentError, f"cannot record the version of {name}")


def add_hashes(name: str, hashes: Mapping[str, str], *, version: str = "") -> None:
    """Record the hashes of packages, by `NAME@VERSION`, and the version of an update. Raises AgentError."""
    record = read_record(name)
    if version or not hashes.items() <= record.hashes.items():
        write_record(name, Record(version or record.version, {**record.hashes, **hashes}))


def _record_path(name: str) -> Path:
    return paths.state_dir() / "agents" / f"{name}.json"
