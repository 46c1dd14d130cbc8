"""The root filesystem's tar in independent chunks, so that each can be compressed and stored by itself.

Where a layer is cut depends on the layer only, not on what the layers above hide: images that share a layer
share its chunks, except for those from which something is hidden or changed.
"""

from __future__ import annotations

import hashlib
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, islice
from typing import Any

from msgspec import Struct

from bot_bottle.errors import ImageError
from bot_bottle.image.layers import CHUNK, Layered, LayerReader
from bot_bottle.rootfs.tar_headers import END, header, header_size
from bot_bottle.rootfs.tree import Folder, Inode, join_path, path_of
from bot_bottle.tar.reader import padded
from bot_bottle.tar.sparse import zeros

LENGTH = 4 << 20  # bytes of a layer in one chunk, approximately
_LARGE = LENGTH // 2  # bytes of a file that becomes chunks of its own
_FOLDERS = 4096  # folders in a chunk


class Stretch(Struct, frozen=True, dict=True):
    """Consecutive bytes of the tar: the entries of `nodes`, or a part of one large file; then `tail`.

    `key` returns a digest (hex) of all that decides the bytes, or "" for a chunk that cannot be reused.
    """

    nodes: Sequence[Inode]
    key: Callable[[], str] | None = None
    start: int = 0
    stop: int | None = None
    tail: bytes = b""

    @cached_property
    def size(self) -> int:
        """The number of bytes."""
        size = len(self.tail)
        for node in self.nodes:
            whole = _entry_size(node)
            if self.stop is None:
                size += whole
                continue
            own = header_size(path_of(node), node)
            size += self.stop - self.start + (0 if self.start else own)
            if self.stop == node.size:
                size += whole - own - node.size
        return size

    def pieces(self, data: LayerData) -> Iterator[bytes]:
        """Yield the bytes, in pieces of any size. Raises ImageError when a layer can no longer be read."""
        for node in self.nodes:
            stop = node.size if self.stop is None else self.stop
            if not self.start:
                yield header(path_of(node), node)
            if stop:
                yield from data.read(node, self.start, stop)
            if stop == node.size:
                yield from zeros(padded(stop) - stop)
                yield from _links(node)
        yield self.tail


def stretches(image: Layered, folders: Sequence[Folder], files: Sequence[Inode]) -> Iterator[Stretch]:
    """Cut the tar of `folders`, sorted by path, and `files`, in the order of the layers' data."""
    for at in range(0, len(folders), _FOLDERS):
        yield Stretch(folders[at : at + _FOLDERS])
    group: list[Inode] = []
    place: object = None
    for node in files:
        here = (node.layer, node.offset // LENGTH)
        if group and (here != place or node.size > _LARGE):
            yield Stretch(group, partial(_group_key, image, group))
            group = []
        if node.size > _LARGE:
            yield from _parts(image, node)
        else:
            group.append(node)
            place = here
    if group:
        yield Stretch(group, partial(_group_key, image, group))
    yield Stretch((), tail=END)


def _entry_size(node: Inode) -> int:
    """Return how many bytes of the tar an entry takes, with the links to it."""
    path = path_of(node)
    size = header_size(path, node) + (padded(node.size) if node.kind == tarfile.REGTYPE else 0)
    for parent, name in node.names or ():
        size += header_size(join_path(parent, name), node, path)
    return size


def _parts(image: Layered, node: Inode) -> Iterator[Stretch]:
    """Cut a large file. Only the first part has its header, and only the last those of its links."""
    digest = _digest(image, node.layer)
    digest.update(b"%d %a" % (node.offset, node.extents))
    for start in range(0, node.size, LENGTH):
        stop = min(start + LENGTH, node.size)
        yield Stretch([node], partial(_part_key, digest, node, start, stop), start, stop)


def _part_key(of_file: Any, node: Inode, start: int, stop: int) -> str:
    digest = of_file.copy()
    digest.update(b" %d %d" % (start, stop))
    if not start:
        digest.update(header(path_of(node), node))
    if stop == node.size:
        for link in _links(node):
            digest.update(link)
    return str(digest.hexdigest())


def _group_key(image: Layered, nodes: Sequence[Inode]) -> str:
    digest = _digest(image, nodes[0].layer)
    for node in nodes:
        digest.update(header(path_of(node), node))
        if node.size:
            digest.update(b"%d %a" % (node.offset, node.extents))
        for link in _links(node):
            digest.update(link)
    return str(digest.hexdigest())


def _digest(image: Layered, number: int) -> Any:
    return hashlib.sha256(str(image.layers[number].diff_id).encode())


def _links(node: Inode) -> Iterator[bytes]:
    if node.names:
        path = path_of(node)
        for parent, name in node.names:
            yield header(join_path(parent, name), node, path)


class LayerData:
    """The data of files, from an image's layers. It has to be read in the order of the layers.

    With `verify`, all data has been verified when `finish` returns. Both methods raise ImageError.
    """

    def __init__(self, image: Layered, *, verify: bool) -> None:
        self._image = image
        self._verify = verify
        self._unread = [
            number for number, layer in enumerate(image.layers) if not (layer.verified or layer.is_sound)
        ]
        self._number = -1
        self._stream: LayerReader | None = None
        self._position = 0
        # the file that these are of: where its extents end, and where they are
        self._mapped: Inode | None = None
        self._ends: list[int] = []
        self._held: list[int] = []

    def read(self, node: Inode, start: int, stop: int) -> Iterator[bytes]:
        """Yield a file's bytes from `start` to `stop`. Raises ImageError when the layer has changed."""
        if node.extents is None:
            yield from self._take(node.layer, node.offset + start, stop - start)
            return
        self._map(node)
        at = start
        first = bisect_right(self._ends, start)
        for (offset, length), held in zip(
            islice(node.extents, first, None), islice(self._held, first, None), strict=False
        ):
            if offset >= stop:
                break
            begin, end = max(offset, start), min(offset + length, stop)
            yield from zeros(begin - at)
            yield from self._take(node.layer, node.offset + held + begin - offset, end - begin)
            at = end
        yield from zeros(stop - at)

    def finish(self) -> None:
        """Read the rest of the open layer, and of those that have not been verified."""
        if self._verify:
            self._drain()
            while self._unread:
                self._open(self._unread[0])
                self._drain()

    def close(self) -> None:
        """Close the layer that is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> LayerData:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(self, node: Inode) -> None:
        if node is not self._mapped:
            assert node.extents is not None  # noqa: S101 - checked by the caller
            self._mapped = node
            self._ends = [offset + length for offset, length in node.extents]
            self._held = list(accumulate((length for _, length in node.extents[:-1]), initial=0))

    def _take(self, number: int, position: int, count: int) -> Iterator[bytes]:
        if number != self._number or self._stream is None or position < self._position:
            self._drain()
            self._open(number)
        assert self._stream is not None  # noqa: S101 - it has been opened
        stream = self._stream
        gap = position - self._position
        if stream.skip(gap) < gap:
            raise self._shorter()
        self._position = position + count
        while count:
            piece = stream.some(count)
            if not piece:
                raise self._shorter()
            count -= len(piece)
            yield piece

    def _open(self, number: int) -> None:
        self.close()
        self._number, self._position = number, 0
        self._stream = self._image.layers[number].open(verify=self._verifies(number))

    def _verifies(self, number: int) -> bool:
        return self._verify and not self._image.layers[number].is_sound

    def _drain(self) -> None:
        if self._stream is not None and self._verifies(self._number):
            while self._stream.some(CHUNK):
                pass
            if self._number in self._unread:
                self._unread.remove(self._number)
        self.close()

    def _shorter(self) -> ImageError:
        return ImageError(
            f"{self._image.layers[self._number]} has changed while it was read",
            next_step="do not change the archive, and try again",
        )
