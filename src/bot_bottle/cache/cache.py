"""The artifact cache: an artifact is found, or made once; it is checked before it is used.

Each artifact `<stem>.smolmachine` has a record `<stem>.json`, whose modification time is when it was last
used, and a lock `<stem>.lock` for the process that makes it; it may have a list of its chunks,
`<stem>.parts`, and files made from it (see derived.py). It is made in a folder `<stem>.<random>.tmp`, synced,
and renamed. Other files are left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.cache import derived
from bot_bottle.cache import prune as tidy
from bot_bottle.cache.entry import Entry, list_path, read_entry, record_of, record_path
from bot_bottle.cache.key import SUFFIX, Change, Key
from bot_bottle.cache.prune import Pruned
from bot_bottle.cache.scratch import disk_full_explained, scratch_folder, sync
from bot_bottle.errors import ArtifactError, CacheError
from bot_bottle.host.files import replace_file
from bot_bottle.host.locks import exclusive_lock, shared_lock
from bot_bottle.host.system_errors import folder_error
from bot_bottle.image.spec import Digest
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.structs import replace

__all__ = ["Cache", "Damaged", "Entry", "Explanation", "Key", "Pruned", "Slot"]


class Damaged(Struct, frozen=True):
    """A damaged entry, and what is wrong with it."""

    entry: Entry
    why: str


class Explanation(Struct, frozen=True):
    """Why a run would find its artifact or make it. `changes` are from the nearest entry's key to this one.

    `damage` says what is wrong with the artifact that should have been found. `image_id` is the engine's id
    of the image, `config_digest` the digest in the key: None where only an export shows it.
    """

    hit: bool
    nearest: Entry | None = None
    changes: tuple[Change, ...] = ()
    damage: str = ""
    image_id: str = ""
    config_digest: Digest | None = None

    def __str__(self) -> str:
        changes = (f"  {change}" for change in self.changes)
        return "\n".join([self._result, *changes, *self._image])

    @property
    def _result(self) -> str:
        if self.hit:
            return "hit: the artifact is in the cache"
        if self.damage:
            return f"miss: the artifact in the cache is damaged ({self.damage})"
        if self.config_digest is None:
            return "miss: an image with this id was never exported, so its config digest is not known"
        if self.nearest is None:
            return "miss: nothing cached for this yet"
        return "miss: the key has changed"

    @property
    def _image(self) -> Iterator[str]:
        """Yield the image's digests; its id in the engine only where that differs."""
        if self.image_id != str(self.config_digest):
            yield f"  id of the image in its engine: {self.image_id}"
        if self.config_digest:
            yield f"  config digest of the image: {self.config_digest}"


class Slot(Struct, frozen=True):
    """The exclusively locked place of one artifact. `entry` is the entry that was found.

    If it is None, the artifact is to be written to `path`, a new file, and published.
    """

    entry: Entry | None
    path: Path
    _publish: Callable[[Digest | None], Entry]

    def publish(self, digest: Digest | None = None) -> Entry:
        """Publish the artifact; its SHA-256, if it is known, saves a reading.

        Raises ArtifactError when there is no artifact in the file, CacheError, DiskFullError.
        """
        return self._publish(digest)


class Cache:
    """The artifacts in one folder, created when it is first needed, private to the user (mode 0700)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: Key) -> Entry | None:
        """Return the sound artifact of `key`, with its time of use renewed, or None. Raises CacheError."""
        with self._explained():
            self._prepare()
            return self._find(self.folder / key.name)[0]

    @contextmanager
    def locked(
        self,
        key: Key,
        *,
        source: str,
        on_wait: Callable[[str], None],
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[Slot]:
        """Lock the place of `key`'s artifact alone, so that two processes at once make it once.

        `source` is written into the record. `on_wait` is called once if another process holds the place,
        `on_damage` (default: `on_wait`) if a damaged artifact was there, which is removed.

        Raises CacheError, and DiskFullError also where the block has no room for the artifact.
        """
        path = self.folder / key.name
        with ExitStack() as stack:
            with self._explained():
                self._prepare()
                waiting = f"waiting for another bot-bottle that makes {key.name}"
                stack.enter_context(exclusive_lock(path.with_suffix(".lock"), lambda: on_wait(waiting)))
                found, damage = self._find(path)
                if found is None and not damage and path.exists():
                    found = self._adopt(path, key, source)
                if damage:
                    (on_damage or on_wait)(f"{key.name} is damaged and will be made again: {damage}")
                    tidy.remove(path)
            if found is not None:
                yield _taken(found)
                return
            with self._explained():
                scratch = stack.enter_context(scratch_folder(self.folder, path.stem))
            stack.enter_context(disk_full_explained("the artifact", self.folder))
            temp = scratch / path.name
            yield Slot(None, temp, lambda digest: self._publish(temp, path, key, digest, source))

    def list(self) -> tuple[Entry, ...]:
        """Return the entries, the last used first. Their bytes are not checked. Raises CacheError."""
        with self._explained():
            names = [name for name in tidy.names(self.folder) if name.endswith(SUFFIX)]
        entries = [read_entry(self.folder / name) for name in names]
        return tuple(sorted((entry for entry in entries if entry), key=lambda entry: -entry.last_used))

    def prune(
        self, *, keep_bytes: int | None = None, older_than: float | None = None, dry_run: bool = False
    ) -> Pruned:
        """Remove entries, the least recently used first, and leftovers of dead processes.

        Entries that were last used more than `older_than` seconds ago are removed, then as many as needed to
        come down to `keep_bytes`; without either, only leftovers. An entry in use stays. With `dry_run`
        nothing is removed. Raises CacheError.
        """
        with self._explained():
            return tidy.prune(self.folder, self.list(), keep_bytes, older_than, dry_run=dry_run)

    def verify(self, on_bytes: Callable[[int], None] = lambda _count: None) -> tuple[Damaged, ...]:
        """Check every byte of every entry, and return the damaged ones.

        `on_bytes` is called with the number of bytes read.
        """
        return tuple(Damaged(entry, why) for entry in self.list() if (why := _damage(entry, on_bytes)))

    def why(self, key: Key, source: str) -> Explanation:
        """Return whether `key` would hit; if not, which parts of it differ from the nearest entry's.

        Near are entries made from the same source, else those of the same image; of these the one with the
        fewest differences, the last used if there are several. Raises CacheError.
        """
        with self._explained():
            entry, damage = self._find(self.folder / key.name, touch=False)
        config = key.config_digest
        if entry or damage:
            return Explanation(entry is not None, entry, (), damage, str(config), config)
        entries = self.list()
        near = [entry for entry in entries if entry.source == source]
        near = near or [entry for entry in entries if entry.key.config_digest == config]
        if not near:
            return Explanation(False, None, (), "", str(config), config)
        nearest = min(near, key=lambda entry: len(entry.key.changes(key)))
        return Explanation(False, nearest, nearest.key.changes(key), "", str(config), config)

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)
        tidy.sweep_scraps(self.folder)

    def _find(self, path: Path, *, touch: bool = True) -> tuple[Entry | None, str]:
        """Return the sound entry at `path`, marked as used now, or what is wrong with the file there.

        Neither is given when there is no file, or a sound one without a record.
        """
        try:
            with shared_lock(path):  # nobody prunes it while it is being looked at
                artifact_format.checksum(path)
                entry = read_entry(path, hit=True)
                if entry is None or not touch:
                    return entry, ""
                os.utime(record_path(path))
                return replace(entry, last_used=time.time()), ""
        except FileNotFoundError:
            return None, ""
        except ArtifactError as error:
            return None, error.why or error.message
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None, "it is a symbolic link"
            raise

    def _adopt(self, path: Path, key: Key, source: str) -> Entry:
        """Return a sound artifact whose record is lost a new one."""
        with scratch_folder(self.folder, path.stem) as scratch:
            facts = path.stat()
            digest = artifact_format.digest_of(path)
            entry = Entry(path, key, True, facts.st_size, digest, source, facts.st_mtime, time.time())
            self._publish_record(entry, scratch)
        return entry

    def _publish(self, made: Path, path: Path, key: Key, digest: Digest | None, source: str) -> Entry:
        artifact = artifact_format.read(made)
        with self._explained():
            made.chmod(0o600)
            sync(made)
            digest = digest or artifact_format.digest_of(made)
            now = time.time()
            entry = Entry(path, key, False, artifact.size, digest, source, now, now)
            self._publish_record(entry, made.parent)
            made.replace(path)
            with contextlib.suppress(FileNotFoundError):
                list_path(made).replace(list_path(path))
            sync(self.folder)
        return entry

    def _publish_record(self, entry: Entry, scratch: Path) -> None:
        replace_file(record_path(entry.path), record_of(entry), scratch / "record")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"cannot use the artifact cache in {self.folder}"
            raise folder_error(message, self.folder, error) from error


def _taken(entry: Entry) -> Slot:
    return Slot(entry, entry.path, lambda _digest: entry)


def _damage(entry: Entry, on_bytes: Callable[[int], None]) -> str:
    try:
        with entry.hold():
            artifact_format.verify(entry.path, on_bytes)
            if artifact_format.digest_of(entry.path) != entry.digest:
                return "its SHA-256 is not the recorded one"
            return derived.damage(entry.path, on_bytes)
    except CacheError:
        pass  # pruned a moment ago
    except (ArtifactError, OSError) as error:
        return str(error)
    return ""
