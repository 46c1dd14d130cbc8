"""The root filesystem into an artifact: stretch by stretch, from the store of frames where one is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bot_bottle.image.flatten import Flattened
from bot_bottle.image.stretches import LayerData, Stretch
from bot_bottle.smolmachine.frames import holds, segment
from bot_bottle.smolmachine.framestore import FrameStore
from bot_bottle.smolmachine.writer import PART, Writer


def write_root(
    writer: Writer, root: Flattened, store: FrameStore | None, on_bytes: Callable[[int], None]
) -> None:
    """Write all of `root`. What is compressed is kept in `store`; the bytes are the same with and without.

    `on_bytes` is told how many bytes of `root` have been written. Raises ImageError when a layer can no
    longer be read, or turns out not to be what its digest says.
    """
    with root.data() as data:
        for stretch in root.stretches():
            size = stretch.size
            if stretch.key is None or size > PART:
                for piece in stretch.pieces(data):
                    writer.add(piece)
                    on_bytes(len(piece))
            else:
                make = _maker(root, stretch, size, data, store)
                writer.add_segment(make, size, partial(on_bytes, size))
        data.finish()


def _maker(
    root: Flattened, stretch: Stretch, size: int, data: LayerData, store: FrameStore | None
) -> Callable[[], bytes]:
    """Give what makes a stretch's segment in another thread, where layers cannot be read in their order."""
    if store is None or stretch.key is None:
        return partial(segment, b"".join(stretch.pieces(data)))
    key = stretch.key()
    if store.holds(key):
        return partial(_kept, root, stretch, size, key, store)
    return partial(_made, b"".join(stretch.pieces(data)), key, store)


def _kept(root: Flattened, stretch: Stretch, size: int, key: str, store: FrameStore) -> bytes:
    kept = store.read(key)
    if kept is not None and holds(kept, size):
        return kept
    with root.data() as data:  # removed a moment ago, or damaged
        made = _made(b"".join(stretch.pieces(data)), key, store)
        data.finish()
        return made


def _made(data: bytes, key: str, store: FrameStore) -> bytes:
    made = segment(data)
    store.keep(key, made)
    return made
