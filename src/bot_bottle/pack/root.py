"""The root filesystem into an artifact: stretch by stretch, from other artifacts where they have it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bot_bottle.pack.chunk_index import PartList, Parts
from bot_bottle.rootfs.chunks import LayerData, Stretch
from bot_bottle.rootfs.flatten import Flattened
from bot_bottle.smolmachine.frames import holds, segment
from bot_bottle.smolmachine.sink import Part
from bot_bottle.smolmachine.writer import PART, Make, Writer


def write_root(
    writer: Writer,
    root: Flattened,
    parts: Parts | None,
    listed: PartList,
    on_bytes: Callable[[int], None],
) -> None:
    """Write all of `root`, and list what can be found in it. The bytes are the same without `parts`.

    `on_bytes` is told how many bytes of `root` have been written. Raises ImageError when a layer can no
    longer be read, or turns out not to be what its digest says.
    """

    def written(key: str, size: int, offset: int, length: int) -> None:
        listed.add(key, offset, length)
        on_bytes(size)

    with root.data() as data:
        for stretch in root.stretches():
            size = stretch.size
            if stretch.key is None or size > PART:
                for piece in stretch.pieces(data):
                    writer.add(piece)
                    on_bytes(len(piece))
            else:
                key = stretch.key()
                make = _maker(root, stretch, data, parts, key)
                writer.add_segment(make, size, partial(written, key, size))
        data.finish()


def _maker(root: Flattened, stretch: Stretch, data: LayerData, parts: Parts | None, key: str) -> Make:
    """Give what makes a stretch's segment in another thread, where layers cannot be read in their order."""
    if parts is not None and parts.holds(key):
        return partial(_kept, root, stretch, parts, key)
    return partial(segment, b"".join(stretch.pieces(data)))


def _kept(root: Flattened, stretch: Stretch, parts: Parts, key: str) -> bytes | Part:
    part = parts.read(key)
    if part is not None and holds(part.data, stretch.size):
        return part
    with root.data() as data:  # removed a moment ago, or damaged
        made = segment(b"".join(stretch.pieces(data)))
        data.finish()
        return made
