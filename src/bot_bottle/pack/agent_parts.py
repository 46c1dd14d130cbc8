"""The parts of an agent's large files, compressed when its layer is made: artifacts get copies of them.

An engine makes a layer of its own from an agent's tar, in which files have other offsets, and which has
another digest. So these parts are found by their content.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from bot_bottle.agent.launcher import TOP
from bot_bottle.cache.entry import list_path
from bot_bottle.errors import BottleError
from bot_bottle.host.files import write_replacement
from bot_bottle.host.signals import defer_signals
from bot_bottle.image.layers import Blob, Layer, Layers
from bot_bottle.image.spec import Digest
from bot_bottle.pack.chunk_index import PartList, Parts
from bot_bottle.rootfs.chunks import Stretch
from bot_bottle.rootfs.flatten import flatten
from bot_bottle.rootfs.tree import path_of
from bot_bottle.smolmachine.frames import holds, segment
from bot_bottle.smolmachine.writer import Make, Part

SEGMENTS = "large.segments"
"""The name of the file of segments in the folder of an agent's layer; the list of parts is beside it."""

_TOP = os.fsencode(TOP.strip("/")) + b"/"
_NO_DIGEST = Digest(f"sha256:{'0' * 64}")  # decides keys that are not used


@contextmanager
def storing_parts(tar: Path) -> Iterator[None]:
    """Call `store_parts` in a thread while the block runs; if that fails, do not wait for the rest."""
    failed = threading.Event()
    worker = threading.Thread(target=store_parts, args=(tar, failed.is_set), name="parts", daemon=True)
    worker.start()
    try:
        yield
    except BaseException:
        failed.set()
        raise
    finally:
        with defer_signals():
            worker.join()


def store_parts(tar: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Store the parts of the large files of an agent's layer beside its tar, unless they are there.

    The caller has the lock of the layer. After an error, such as a full disk, or where it is `stopped`, there
    are none, and they are made when an artifact needs them.
    """
    segments, listed = tar.with_name(SEGMENTS), PartList()
    with suppress(BottleError, OSError):
        if list_path(segments).exists():
            return
        with (
            tar.open("rb", buffering=0) as file,
            write_replacement(segments, segments.with_suffix(".partial")) as out,
        ):
            blob = Blob(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            root = flatten(Layers((Layer(_NO_DIGEST, None, blob, sound=True),)), verify=False)
            with root.data() as data:
                for stretch in filter(_is_large, root.stretches()):
                    if stopped():
                        raise InterruptedError
                    content = b"".join(stretch.pieces(data))
                    made = segment(content)
                    listed.add(_key(content), out.tell(), len(made))
                    out.write(made)
            size = out.tell()
        listed.write(segments, size, 0)


def segment_maker(stretch: Stretch, content: bytes, parts: Parts | None) -> Make:
    """Return a function that makes the segment of a chunk with this content, or finds it."""
    if parts is not None and parts.of_agents and _is_large(stretch):
        return partial(_found_or_made, content, parts)
    return partial(segment, content)


def _found_or_made(content: bytes, parts: Parts) -> bytes | Part:
    part = parts.read(_key(content))
    return part if part is not None and holds(part.data, len(content)) else segment(content)


def _is_large(stretch: Stretch) -> bool:
    """Return whether a chunk is a part of a large file of an agent."""
    return stretch.stop is not None and path_of(stretch.nodes[0]).startswith(_TOP)


def _key(content: bytes) -> str:
    return f"content {hashlib.sha256(content).hexdigest()}"
