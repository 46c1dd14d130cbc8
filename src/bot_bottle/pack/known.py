"""Layers whose headers are kept, so that an image's files can be listed without reading its layers again.

What is kept is what the reader of headers was given, byte for byte, and it is given the same again. It is
found by the layer's digest, which had been verified when it was published.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import TracebackType

import zstandard

from bot_bottle.image.archive import Image
from bot_bottle.image.layers import CHUNK, Layer
from bot_bottle.pack.layer_headers import HeaderStore
from bot_bottle.smolmachine.crc import crc32
from bot_bottle.smolmachine.frames import closing

_FORM = "headers 1"  # to be changed with what image/tarread.py asks for
_LARGEST = 32 << 20  # bytes, compressed; of a layer with more headers none are kept


def known(image: Image, store: HeaderStore) -> Image:
    """Give an image whose layers' headers are read from the store, or kept there if they were not in it."""
    return replace(image, layers=tuple(_known(layer, store) for layer in image.layers))


def _known(layer: Layer, store: HeaderStore) -> Layer:
    key = f"{_FORM} of {layer.diff_id}"
    kept = store.read(key)
    if kept is not None:
        return replace(layer, headers=partial(_Kept, kept), verified=True)
    # to find the headers all of it is decompressed, and here layers are read side by side
    verify = layer.immutable and layer.compressed and not layer.is_sound
    return replace(layer, headers=lambda: _Recorded(layer, store, key, verify=verify))


class _Kept:
    """The headers of a layer. What stands between them can only be passed over."""

    def __init__(self, kept: bytes) -> None:
        decompressor = zstandard.ZstdDecompressor()
        self._headers = decompressor.stream_reader(kept, read_across_frames=True)

    def read(self, count: int = -1, /) -> bytes:
        data = self._headers.read(count)
        while 0 < len(data) < count and (more := self._headers.read(count - len(data))):
            data += more
        return data

    def some(self, _limit: int, /) -> bytes:
        return b""

    def skip(self, count: int, /) -> int:
        return count

    def close(self) -> None:
        self._headers.close()  # type: ignore[no-untyped-call]

    def __enter__(self) -> _Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Recorded:
    """A layer that is read from where it is; if that goes well, the headers that were read are kept.

    With `verify` it is then read to its end, and verified.
    """

    def __init__(self, layer: Layer, store: HeaderStore, key: str, *, verify: bool) -> None:
        self._verification = layer.verification if verify else None
        self._stream = stream = layer.open(verify=verify)
        self._store = store
        self._key = key
        self._frame = zstandard.ZstdCompressor().compressobj()
        self._parts: list[bytes] = []
        self._size = 0
        self.some = stream.some
        self.skip = stream.skip
        self.close = stream.close

    def read(self, count: int = -1, /) -> bytes:
        data = self._stream.read(count)
        if self._size < _LARGEST:
            self._add(self._frame.compress(data))
        return data

    def _add(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._size += len(part)

    def __enter__(self) -> _Recorded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if kind is None and self._verification is not None:
                while self.some(CHUNK):
                    pass
                self._verification.done = True
        if kind is None and self._size < _LARGEST:
            self._add(self._frame.flush())
            frame = b"".join(self._parts)
            self._store.keep(self._key, frame + closing(len(frame), crc32(frame)))
