"""The layer of an agent: its packages as one tar, the same bytes wherever it is made, kept in the cache.

A package's archive is fetched to a file, its hash is checked, and only then it is read. It is untrusted all
the same: files and folders alone are taken, and none outside of the agent's own folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from msgspec import Struct

from bot_bottle.agent import launcher as launchers
from bot_bottle.agent.choice import Agent, add_hashes, is_newer
from bot_bottle.agent.npm import Registry, check_integrity
from bot_bottle.agent.profile import VERSION, Libc, Package
from bot_bottle.errors import AgentError, ImageError
from bot_bottle.host import paths
from bot_bottle.host.files import is_published, publish_dir
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.system_errors import folder_error
from bot_bottle.host.text import printable
from bot_bottle.image.gunzip import GzipError, open_gzip
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import REGULAR, Headers

FILE, ABOUT = "layer.tar", "about.json"
LAYER_VERSION = "1"  # of how layers and launchers are made
_LARGEST = 4 << 30  # bytes of a package's files
_MOST = 100_000  # files of a package
_LONGEST = 1000  # bytes of a path
_PIECE = 1 << 20


class Layer(Struct, frozen=True):
    """What an agent adds to an image: the tar of its packages in a folder of the cache, and its launcher.

    `hashes` are those of its packages, by `NAME@VERSION`.
    """

    folder: Path
    launcher: bytes
    hashes: Mapping[str, str]

    @property
    def packages(self) -> Path:
        """The tar of its packages."""
        return self.folder / FILE


def update(agent: Agent, arch: str, registry: Registry) -> str:
    """Record the newest version of an agent, with the hashes of its packages; return that version.

    Where the registry has none that is newer, it is that of `agent`. Raises AgentError where it has no
    package of the newest version.
    """
    newest = registry.find(agent.profile.release, "latest").version
    if not is_newer(newest, agent.version):
        return agent.version
    hashes: dict[str, str] = {}
    missing: AgentError | None = None
    for each in agent.profile.packages:
        if each.arch in (None, arch) and VERSION in each.version:
            try:
                release = registry.find(each.name, each.version.replace(VERSION, newest))
                hashes[f"{release.name}@{release.version}"] = release.integrity
            except AgentError as error:  # a vendor may publish for some images later than for others
                missing = error
    if missing is not None and not hashes:
        raise missing
    add_hashes(agent.name, hashes, version=newest)
    return newest


def _with_hashes(agent: Agent, packages: list[Package]) -> list[Package]:
    """Return packages with their hashes; those that are not known are the registry's, and are recorded."""
    registry = Registry()
    found = []
    for each in packages:
        if not each.integrity:
            release = registry.find(each.name, each.version)
            add_hashes(agent.name, {each.key: release.integrity})
            found.append(each.with_integrity(release.integrity))
        else:
            found.append(each)
    return found


def make_layer(agent: Agent, arch: str, libc: Libc | None, progress: Progress) -> Layer:
    """Return the layer of an agent for an image, made if it is not in the cache. Raises AgentError."""
    packages = agent.packages(arch, libc)
    if not all(each.integrity for each in packages):
        packages = _with_hashes(agent, packages)
    place = launchers.folder(agent.profile)
    parts = [[each.name, each.version, each.integrity, each.folder] for each in packages]
    stem = hashlib.sha256(json.dumps([LAYER_VERSION, place, parts]).encode()).hexdigest()
    folder = paths.agents_dir() / stem
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_published(folder, stem):
            wait = f"waiting for another bot-bottle that fetches {agent.name}"
            with exclusive_lock(folder.with_suffix(".lock"), lambda: progress.note(wait)):
                if not is_published(folder, stem):
                    _fetch(folder, stem, agent, packages, place, progress)
        os.utime(folder)
    except OSError as error:
        raise folder_error(f"cannot use {folder.parent}", folder.parent, error) from error
    script = launchers.launcher(agent.profile, packages)
    hashes = {each.key: each.integrity for each in packages}
    return Layer(folder, _launcher_tar(agent.name, script), hashes)


def _fetch(
    folder: Path, stamp: str, agent: Agent, packages: list[Package], place: str, progress: Progress
) -> None:
    """Fetch and verify the packages, and publish the tar of their files in a folder of the cache."""
    registry = Registry()
    with progress.stage("agent") as stage, publish_dir(folder, stamp) as partial:
        archives = []
        for number, each in enumerate(packages):
            stage.say(each.key)
            release = registry.find(each.name, each.version)
            check_integrity(release, each.integrity)
            archives.append(partial / f"{number}.tgz")
            registry.fetch(release, archives[-1], stage.advance)
        with (partial / FILE).open("wb") as file:
            _write_layer(file, place, list(zip(packages, archives, strict=True)))
            file.flush()
            os.fsync(file.fileno())
        for archive in archives:
            archive.unlink()
        about = {"agent": agent.name, "version": agent.version,
                 "packages": [each.key for each in packages]}  # fmt: skip
        (partial / ABOUT).write_text(json.dumps(about))
        stage.conclude(f"{agent.name} {agent.version}")


def _write_layer(target: IO[bytes], place: str, archives: list[tuple[Package, Path]]) -> None:
    """Write the tar of the files of packages: of root, at the beginning of 1970."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        top = place.strip("/")
        names = _Names()
        for folder in _above(f"{top}/x", below=launchers.TOP.strip("/")):
            tar.addfile(_member(folder, tarfile.DIRTYPE, 0o755))
        for package, archive in archives:
            root = f"{top}/{package.folder}" if package.folder else top
            what = package.key
            with _explained(what):
                for name, mode, size, pieces in _files(archive, what):
                    path = f"{root}/{name}"
                    for folder in names.add(path, top, what):
                        tar.addfile(_member(folder, tarfile.DIRTYPE, 0o755))
                    member = _member(path, tarfile.REGTYPE, 0o755 if mode & 0o111 else 0o644, size)
                    tar.addfile(member, _Reader(pieces))
    for package, _ in archives:
        if missing := [path for path in package.program if f"{top}/{path}" not in names.files]:
            raise AgentError(
                f"the package {package.name}@{package.version} has no {printable(missing[0], limit=100)}"
            )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise AgentError in place of what reading a damaged archive raises."""
    try:
        yield
    except ImageError as error:
        raise AgentError(error.message, why=error.why) from error
    except (GzipError, EOFError, gzip.BadGzipFile) as error:
        raise AgentError(f"the package {what} cannot be unpacked", why=str(error)) from error


class _Names:
    """The paths of a layer so far. No path may be there twice, or lead through a file."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, path: str, top: str, what: str) -> list[str]:
        """Add a file, and return the folders above it that are new. Raises AgentError."""
        folders = _above(path, below=top)
        if path in self.files or path in self._folders or not self.files.isdisjoint(folders):
            raise _hostile(what, f"two members with one path: {printable(path, limit=100)}")
        new = [each for each in folders if each not in self._folders and each != top]
        self.files.add(path)
        self._folders.update(folders)
        return new


def _above(path: str, below: str) -> list[str]:
    """Return the folders of a path from `below` on, which is the first."""
    parts = path.split("/")
    found = ["/".join(parts[:count]) for count in range(1, len(parts))]
    return [each for each in found if each == below or each.startswith(f"{below}/")]


def _files(archive: Path, what: str) -> Iterator[tuple[str, int, int, Iterator[bytes]]]:
    """Yield the files of a package: their paths without the first part, modes, sizes and data.

    Raises AgentError for members that no package has: links, devices, paths that lead outside.
    """
    total = count = 0
    with open_gzip(archive) as stream:
        headers = Headers(PieceStream(iter(lambda: stream.read(_PIECE), b"")), f"the package {what}")
        for member in headers:
            count, total = count + 1, total + member.size
            if count > _MOST or total > _LARGEST:
                raise _hostile(what, f"more than {_MOST} files, or {_LARGEST >> 30} GiB")
            if member.isdir():
                continue
            if member.type not in REGULAR:
                raise _hostile(what, f"a link or a device: {printable(member.name, limit=100)}")
            yield _relative(member.name, what), member.mode, member.size, headers.data()


def _relative(name: str, what: str) -> str:
    parts = name.split("/")
    bad = len(parts) < 2 or not all(parts) or {".", ".."} & set(parts) or "\0" in name or "\\" in name
    if bad or len(os.fsencode(name)) > _LONGEST:
        raise _hostile(what, f"a path that leads outside: {printable(name, limit=100)}")
    return "/".join(parts[1:])


def _hostile(what: str, why: str) -> AgentError:
    return AgentError(f"the package {what} is not one of npm", why=f"it has {why}")


def _member(name: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size = kind, mode, size
    return member


class _Reader(io.RawIOBase):
    """Reads pieces as a file, for tarfile."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._stream = PieceStream(pieces)

    def read(self, count: int = -1, /) -> bytes:
        """Return `count` bytes, fewer only at the end."""
        return self._stream.read(count)


def _launcher_tar(name: str, script: str) -> bytes:
    data = script.encode()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in _above(f"{launchers.BIN.strip('/')}/x", below=launchers.TOP.strip("/")):
            tar.addfile(_member(folder, tarfile.DIRTYPE, 0o755))
        path = f"{launchers.BIN.strip('/')}/{name}"
        tar.addfile(_member(path, tarfile.REGTYPE, 0o755, len(data)), io.BytesIO(data))
    return target.getvalue()
