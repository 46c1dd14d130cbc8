"""An image's layers as one root filesystem tar, as the engine would show it.

The layers are read twice: first to verify them and build the merged tree, then to stream the tar. Nothing is
unpacked, and memory has one small record for each entry.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from operator import attrgetter

from bot_bottle.errors import ImageError
from bot_bottle.image.layers import CHUNK, Layer, Layered, LayerReader
from bot_bottle.rootfs import FLATTEN_VERSION
from bot_bottle.rootfs.chunks import LayerData, Stretch, stretches
from bot_bottle.rootfs.layer import LayerTree, merge_layer, read_layer
from bot_bottle.rootfs.smolvm_compat import LONGEST_PATH, Unsupported, UnsupportedEntries, make_portable
from bot_bottle.rootfs.tree import PATH_MAX, Folder, Inode, Quota, join_path, path_of

__all__ = ["FLATTEN_VERSION", "Flattened", "Unsupported", "flatten"]

_BATCH = 256 << 10  # bytes of small entries that are yielded together
_SIZE_LIMIT = 128 << 30
_ENTRY_LIMIT = 2_000_000


class Flattened:
    """One root filesystem. `size` is that of its tar in bytes, `entries` their number in it."""

    def __init__(
        self,
        image: Layered,
        verified: bool,
        folders: list[Folder],
        files: list[Inode],
        losses: UnsupportedEntries,
    ) -> None:
        self._image = image
        self._verified = verified
        self._files = files
        self._stretches = tuple(stretches(image, folders, files))
        self.entries = len(folders) + sum(1 + len(node.names or ()) for node in files)
        self.losses: tuple[Unsupported, ...] = losses.all()
        self.size = sum(stretch.size for stretch in self._stretches)

    def files(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield the files by their first path, in the order in which `data` reads them."""
        return ((path_of(node), node) for node in self._files)

    def stretches(self) -> Iterator[Stretch]:
        """Yield the tar in chunks, in order."""
        return iter(self._stretches)

    def data(self) -> LayerData:
        """Return the data of the chunks, to be finished and closed."""
        return LayerData(self._image, verify=not self._verified)

    def chunks(self) -> Iterator[bytes]:
        """Yield the uncompressed tar. Raises ImageError when a layer can no longer be read."""
        written = 0
        with self.data() as data:
            for chunk in _batched(piece for stretch in self.stretches() for piece in stretch.pieces(data)):
                written += len(chunk)
                yield chunk
            data.finish()
        assert written == self.size, f"{written} bytes instead of {self.size}"  # noqa: S101


def flatten(
    image: Layered,
    *,
    portable: bool = True,
    verify: bool = True,
    threads: int = 1,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Flattened:
    """Read every layer once, verify it, and merge them.

    With `portable`, what smolvm could not extract is changed or left out (see smolvm_compat.py and
    `Flattened.losses`). Without `verify` only headers are read, and layers are verified when their data is:
    until that has finished, the result must not be used. Up to `threads` layers are read at once. `on_bytes`
    is called with the uncompressed bytes read, by one thread at a time. Raises ImageError for a damaged or
    hostile layer.
    """
    root = Folder()
    with closing(_trees(image, verify, on_bytes, threads)) as trees:
        for tree in trees:
            merge_layer(root, tree)
            del tree
    losses = UnsupportedEntries()
    folders, files = _listed(root, LONGEST_PATH if portable else PATH_MAX, losses)
    if portable:
        for folder in folders:
            make_portable(root, folder.path, folder, losses)
        files = [node for node in files if make_portable(root, path_of(node), node, losses)]
    for folder in (root, *folders):
        folder.children = {}  # from here on the lists are enough
    flattened = Flattened(image, verify, folders, files, losses)
    if flattened.entries > _ENTRY_LIMIT or flattened.size > _SIZE_LIMIT:
        raise ImageError(
            "the image is too large for a microVM",
            why=f"{flattened.entries} entries of {_ENTRY_LIMIT}, {flattened.size} bytes of {_SIZE_LIMIT}",
        )
    return flattened


def _trees(
    image: Layered, verify: bool, on_bytes: Callable[[int], None], threads: int
) -> Generator[LayerTree, None, None]:
    """Read the layers, up to `threads` of them at once, and yield their trees in their order."""
    quota, lock = Quota(), threading.Lock()
    ended = False

    def count(size: int) -> None:
        if ended:
            raise ImageError("another layer could not be read")  # never shown: the other error is raised
        with lock:
            on_bytes(size)

    def read(number: int, layer: Layer) -> LayerTree:
        with layer.open() if verify else layer.open_headers() as stream:
            tree = read_layer(_Counted(stream, count), number, str(layer), quota)
            while verify and stream.some(CHUNK):
                pass  # data after the end mark is part of the digest
        return tree

    if threads == 1:
        yield from map(read, itertools.count(), image.layers)
        return
    coming: deque[Future[LayerTree]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="layers") as pool:
        try:
            for number, layer in enumerate(image.layers):
                if len(coming) == threads:
                    yield coming.popleft().result()
                coming.append(pool.submit(read, number, layer))
            while coming:
                yield coming.popleft().result()
        finally:
            ended = True
            pool.shutdown(cancel_futures=True)


class _Counted:
    def __init__(self, stream: LayerReader, on_bytes: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes
        self.read = stream.read

    def skip(self, count: int) -> int:
        done = 0
        while done < count:
            step = self._stream.skip(min(count - done, 4 * CHUNK))
            if not step:
                break
            self._on_bytes(step)
            done += step
        return done


def _listed(root: Folder, longest: int, losses: UnsupportedEntries) -> tuple[list[Folder], list[Inode]]:
    """Return the folders of a tree sorted by path, and its files in the order of the layers.

    Paths of more than `longest` bytes are left out.
    """
    folders: list[Folder] = []
    files: list[Inode] = []
    todo = [root]
    while todo:
        folder = todo.pop()
        for name, node in folder.children.items():
            if len(folder.path) + len(name) >= longest:
                losses.add("path too long", join_path(folder, name))
            elif isinstance(node, Folder):
                node.path = join_path(folder, name)
                folders.append(node)
                todo.append(node)
            elif node.parent is None:
                node.parent, node.name = folder, name
                files.append(node)
            elif node.names is None:
                node.names = [(folder, name)]
            else:
                node.names.append((folder, name))
    folders.sort(key=attrgetter("path"))
    files.sort(key=attrgetter("offset"))
    files.sort(key=attrgetter("layer"))
    for node in files:
        if node.names and node.parent:
            places = [(node.parent, node.name), *node.names]
            first, *others = sorted(places, key=lambda place: join_path(*place))
            (node.parent, node.name), node.names = first, others
    return folders, files


def _batched(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small pieces, so that there is not one for each header."""
    batch: list[bytes] = []
    held = 0
    for piece in pieces:
        batch.append(piece)
        held += len(piece)
        if held >= _BATCH:
            yield b"".join(batch) if len(batch) > 1 else piece
            batch, held = [], 0
    if batch:
        yield b"".join(batch)
