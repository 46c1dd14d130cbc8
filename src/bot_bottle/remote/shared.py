"""The cache behind the cache: a repository whose tags are the stems of cache keys.

It saves time or does nothing: what is wrong with it costs a moment once and a line, and the artifact is made
here. What it has is used only if it is for exactly the key that was asked for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from bot_bottle.cache.entry import Entry
from bot_bottle.cache.key import Key
from bot_bottle.errors import (
    ArtifactError,
    BottleError,
    DiskFullError,
    ImageError,
    LeakError,
    RegistryError,
    UntrustedError,
)
from bot_bottle.host.progress import Progress, human_bytes
from bot_bottle.image.spec import Digest
from bot_bottle.remote.artifact import find, push
from bot_bottle.remote.download import Pace
from bot_bottle.remote.pull import receive
from bot_bottle.remote.receipt import NOT_SCANNED
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.retry import Retry
from bot_bottle.remote.session import SECONDS, NotThereError, Session, UnreachableError

T = TypeVar("T")

_PATIENCE = 2.0  # seconds for an answer, and for data
_BUSY_PATIENCE = 1.0  # of that, for a registry that says that it is busy
_LEAST_PATIENCE = 0.5  # of that, for data after an answer that took long
_PUSH_PATIENCE = 10.0  # for a busy registry that gets an artifact
_LEAST = 64 << 10  # bytes that have to come in that time


class SharedCache:
    """Artifacts by key in the repository of `reference`.

    `trusted` is the file of those whose signature is required, None: nobody's. With `pushes` artifacts are
    put there, signed with `signing_key` if there is one. `scan`, if given, searches them for secrets before:
    it returns the result for the receipt, or raises LeakError.
    """

    def __init__(
        self,
        reference: Reference,
        trusted: Path | None,
        signing_key: Path | None,
        *,
        pushes: bool = False,
        scan: Callable[[Path, Progress], str] | None = None,
    ) -> None:
        self._reference = reference
        self._trusted = trusted
        self._signing_key = signing_key
        self._pushes = pushes
        self._scan = scan
        self._usable = True

    def fetch(self, key: Key, out: Path, progress: Progress) -> Digest | None:
        """Write the artifact of a key to the new file `out`; return its digest, or None if there is none."""
        if not self._usable:
            return None
        session = Session(self._reference.tagged(key.stem), _PATIENCE, Retry(_BUSY_PATIENCE))
        begun = time.monotonic()
        try:
            found = self._soon(session, partial(find, session, self._trusted, key))
            left = max(_LEAST_PATIENCE, _PATIENCE - (time.monotonic() - begun))
            session.seconds = left
            session.retry.seconds = min(left, session.retry.seconds)
            return receive(session, found, out, progress, Pace(left, _LEAST))
        except NotThereError:
            pass
        except (ArtifactError, DiskFullError, ImageError, UntrustedError) as error:
            progress.warn(f"refused {session.reference}, which is made here: {_in_a_line(error)}")
        except RegistryError as error:
            self._give_up(error, progress)
        return None

    def offer(self, entry: Entry, progress: Progress) -> None:
        """Put an artifact there, unless it is there, if this pushes. Raises ArtifactError for damage."""
        if not (self._pushes and self._usable):
            return
        session = Session(self._reference.tagged(entry.key.stem), _PATIENCE, Retry(_BUSY_PATIENCE))
        try:
            if self._has(session, entry):
                progress.note(f"{'push':<8} it was there already")
                return
            scanned = NOT_SCANNED if self._scan is None else self._scan(entry.path, progress)
            session.seconds, session.retry = SECONDS, Retry(_PUSH_PATIENCE, progress.note)
            with progress.stage("push", entry.size) as stage:
                done = push(
                    session,
                    entry.path,
                    entry.key,
                    entry.created,
                    signing_key=self._signing_key,
                    scan=scanned,
                    on_bytes=stage.advance,
                )
                stage.conclude(f"{human_bytes(done.sent)} sent to {session.reference}")
        except RegistryError as error:
            self._give_up(error, progress)
        except LeakError as error:
            result = error.why.splitlines()[-1]
            progress.warn(f"not put into the shared cache: {result} (bottle scan {entry.path} shows them)")

    def _has(self, session: Session, entry: Entry) -> bool:
        """Return whether it is there in such a form that `fetch` would use it."""
        try:
            found = self._soon(session, partial(find, session, self._trusted, entry.key))
        except (NotThereError, ArtifactError, ImageError, UntrustedError):
            return False
        return found.blob.digest == entry.digest

    def _soon(self, session: Session, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises UnreachableError if that takes too long, and what it raises."""
        _ = session.login  # a helper may ask the user, which takes its time
        results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put((work(), None))
            except BaseException as error:
                results.put((None, error))

        # names are resolved without a limit of their own, so nobody waits for the thread
        threading.Thread(target=run, name="shared-cache", daemon=True).start()
        try:
            value, error = results.get(timeout=_PATIENCE)
        except queue.Empty:
            raise UnreachableError(
                f"the registry {session.host} did not answer within {_PATIENCE:g} s"
            ) from None
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # it is only None if work's is

    def _give_up(self, error: RegistryError, progress: Progress) -> None:
        self._usable = False
        progress.warn(f"the shared cache {self._reference.host} is not used: {_in_a_line(error)}")


def _in_a_line(error: BottleError) -> str:
    why = "; ".join(line.strip() for line in error.why.splitlines())
    return f"{error.message}{f' ({why})' if why else ''}"
