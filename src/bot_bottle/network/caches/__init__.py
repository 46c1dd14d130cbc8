"""Caches of packages: which files of which registries never change, so that they are fetched once.

Each is a file here, or `caches/NAME.txt` in the user's configuration folder: an entry a line, with `#` for
comments, of HOST:PORT and a regular expression that the whole decoded path of a file matches. With `80>443`
what is requested at the first port without TLS is fetched from the second with it. A group of the expression
that has the name of a hash is the file's hash, with slashes that are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from bot_bottle.errors import SpecError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.host.text import printable
from bot_bottle.network.request_paths import canonical_path

_FOLDER = Path(__file__).parent
_SUFFIX = ".txt"
_LIMIT = 1 << 20  # bytes of a file
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_ENTRY = re.compile(r"(?P<host>[a-z0-9.-]+):(?P<port>\d{1,5})(?:>(?P<source>\d{1,5}))? (?P<path>/.*)")
_HASHES = {"blake2b": 32, "sha256": 32}  # and their size in bytes
_SAFE = "/@!$&'()*,=:~"  # in a path; not `+`, which some servers take for a space


class PackageFiles(Struct, frozen=True):
    """Files of a registry that never change: requested at `port`, and fetched with TLS from `source`.

    `path` is the regular expression for their paths.
    """

    host: str
    port: int
    source: int
    path: str

    @property
    def encrypted(self) -> bool:
        """Whether requests for them come with TLS, so that they have to be decrypted."""
        return self.port == self.source

    def find(self, target: str) -> PackageFile | None:
        """Return the file that a request's target asks for; None if it is another one."""
        try:
            path = canonical_path(target)
        except ValueError:
            return None
        found = _compiled(self.path).fullmatch(path)
        if found is None or "?" in target or "%" in path:
            return None
        name, value = next(((name, text) for name, text in found.groupdict().items() if text), ("", ""))
        return PackageFile(self.host, self.source, quote(path, _SAFE), name, value.replace("/", ""))


class PackageFile(Struct, frozen=True):
    """A file of a registry. `target` is the path in one spelling; `digest` is what `algorithm` gives for it.

    Both are "" where its path has no hash.
    """

    host: str
    port: int
    target: str
    algorithm: str = ""
    digest: str = ""

    @property
    def url(self) -> str:
        """What it is cached by."""
        return f"https://{self.host}:{self.port}{self.target}"

    def new_hash(self) -> hashlib._Hash | hashlib.blake2b | None:
        """Return what gives its digest; None if its path has no hash."""
        if self.algorithm == "blake2b":
            return hashlib.blake2b(digest_size=_HASHES["blake2b"])
        return hashlib.new(self.algorithm) if self.algorithm else None


def cache_names() -> list[str]:
    """Return the names of all caches, sorted."""
    return sorted({*_own(), *_of_user()})


def load_caches(names: Iterable[str]) -> tuple[PackageFiles, ...]:
    """Return the files in these caches. Raises SpecError for one that there is not, or that is invalid."""
    found: dict[PackageFiles, None] = {}
    for name in names:
        if name in _own():
            text = (_FOLDER / f"{name}{_SUFFIX}").read_text("utf-8")
        elif name in _of_user():
            text = read_regular(paths.config_dir() / "caches" / (name + _SUFFIX), _LIMIT)[0].decode()
        else:
            raise SpecError(
                f"there is no cache of packages {printable(name, limit=40)!r}",
                next_step=f"use one of {', '.join(cache_names())}",
            )
        lines = (line.strip() for line in text.splitlines())
        found |= {_parse(name, line): None for line in lines if line and not line.startswith("#")}
    return tuple(found)


def _parse(name: str, line: str) -> PackageFiles:
    try:
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            raise ValueError("an entry is HOST:PORT and a regular expression for paths")
        if unknown := set(_compiled(entry["path"]).groupindex) - set(_HASHES):
            raise ValueError(f"the hash {min(unknown)} is not supported")
        port, source = int(entry["port"]), int(entry["source"] or entry["port"])
        return PackageFiles(entry["host"], port, source, entry["path"])
    except (ValueError, re.error) as error:
        raise SpecError(
            f"the cache of packages {name} cannot be used",
            why=f"{printable(line, limit=100)}: {error}",
            next_step=f"correct it in {paths.config_dir() / 'caches'}",
        ) from error


@cache
def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(path)


@cache
def _own() -> frozenset[str]:
    files = [path.name for path in _FOLDER.iterdir()]
    return frozenset(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))


def _of_user() -> frozenset[str]:
    try:
        files = [path.name for path in (paths.config_dir() / "caches").iterdir()]
    except OSError:
        return frozenset()
    names = (name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))
    return frozenset(filter(_NAME.fullmatch, names))
