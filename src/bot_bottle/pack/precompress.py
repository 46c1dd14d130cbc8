"""Compresses parts of an artifact from an archive's layers while the archive is still being written.

The parts of a layer depend on the layers above it only where those hide or change something. So they are made
of each layer as soon as it is complete, as if nothing were above it, and stored in a separate file; the
writer of the artifact finds most of what it needs there, by its key. What does not fit, or is not ready at
the end, is made as usual.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bot_bottle.errors import BottleError
from bot_bottle.host.signals import defer_signals
from bot_bottle.image.archive import Image
from bot_bottle.image.growing_archive import Arriving
from bot_bottle.image.layers import CHUNK, Blob, Layer, Layers
from bot_bottle.image.spec import Digest
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.rootfs.flatten import Flattened, flatten
from bot_bottle.smolmachine.frames import segment
from bot_bottle.smolmachine.writer import PART, threads
from bot_bottle.structs import replace

_ROOM = 4  # times a layer's size has to be free, since the artifact needs space first


class Ahead:
    """Adds to `parts`. The data is in `scratch`, a folder that the caller removes.

    Layers of more than `limit` bytes, uncompressed, are left out. A context manager that ends before `parts`.
    """

    def __init__(self, parts: Parts, scratch: Path, limit: int) -> None:
        self._parts = parts
        self._scratch = scratch
        self._limit = limit
        self._stop = False
        self._sound: set[tuple[Blob, Digest]] = set()
        self._open = ExitStack()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextmanager
    def watching(self, archive: Path) -> Iterator[Callable[[int], None]]:
        """Compress from an archive while the block writes it; yield a function for each piece's size."""
        arriving = Arriving(archive)
        worker = threading.Thread(target=self._work, args=(arriving,), name="ahead", daemon=True)
        worker.start()
        try:
            yield arriving.advance
        finally:
            with defer_signals():  # the worker uses what is closed after this
                self._stop = True  # what has been made is enough: the rest is made where it is needed
                arriving.end()
                worker.join()

    def marked(self, image: Image) -> Image:
        """Return an image of that archive, in which the layers that were verified are marked as sound."""
        return replace(image, layers=tuple(self._marked(layer) for layer in image.layers))

    def _marked(self, layer: Layer) -> Layer:
        place = replace(layer.blob, fd=-1), layer.diff_id
        # a manifest that gives an uncompressed layer another digest is an error of the reader
        sound = place in self._sound and layer.digest in (None, layer.diff_id)
        return replace(layer, sound=True) if sound else layer

    def _work(self, arriving: Arriving) -> None:
        # a damaged archive or a full disk is reported when the artifact is made
        with contextlib.suppress(BottleError, OSError):
            for blob in arriving.layers():
                digest = self._digest(blob)
                if digest is None:
                    return
                self._sound.add((replace(blob, fd=-1), digest))
                root = flatten(Layers((Layer(digest, None, blob, sound=True),)), verify=False)
                disk = os.statvfs(self._scratch)
                if root.size <= self._limit and disk.f_bavail * disk.f_frsize > _ROOM * blob.size:
                    self._make(root)

    def _digest(self, blob: Blob) -> Digest | None:
        """Return the SHA-256 of a layer, or None if there is no time left for it."""
        sha256, position = hashlib.sha256(), 0
        while data := blob.pread(CHUNK, position):
            if self._stop:
                return None
            sha256.update(data)
            position += len(data)
        return Digest(f"sha256:{sha256.hexdigest()}")

    def _make(self, root: Flattened) -> None:
        path = self._scratch / f"ahead-{len(self._sound)}"
        file = self._open.enter_context(path.open("xb+", buffering=0))
        for key, made in self._compressed(root):
            offset = file.tell()
            if file.write(made) < len(made):
                raise OSError("no room for all of it")
            self._parts.add(key, file.fileno(), offset, len(made))

    def _compressed(self, root: Flattened) -> Iterator[tuple[str, bytes]]:
        """Yield the parts that are not stored yet with their keys, until there is no time left for more."""
        coming: deque[tuple[str, Future[bytes]]] = deque()
        with ThreadPoolExecutor(threads(), thread_name_prefix="ahead") as pool, root.data() as data:
            for stretch in root.stretches():
                if self._stop:
                    break
                if stretch.key is None or stretch.size > PART or self._parts.holds(key := stretch.key()):
                    continue
                coming.append((key, pool.submit(segment, b"".join(stretch.pieces(data)))))
                if len(coming) > threads():
                    key, made = coming.popleft()
                    yield key, made.result()
            for key, made in coming:
                yield key, made.result()
