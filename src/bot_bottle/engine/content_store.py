"""Images in containerd's content store: blobs by their digest, readable for users who may read its folder.

Everything is verified by digests, from the one by which the engine identifies the image to each layer's. An
open blob stays readable when containerd's garbage collector removes its name, so a layer is never incomplete.

Sources: containerd docs/content-flow.md and plugins/content/local/store.go (`blobs/ALGORITHM/HEX`); moby
daemon/containerd (the id of an image is the digest of its index or manifest).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from bot_bottle.engine.info import part
from bot_bottle.host import process
from bot_bottle.image.archive import Image, image_found
from bot_bottle.image.archive_index import FolderMembers
from bot_bottle.image.index import find_image
from bot_bottle.image.layout import find_blob
from bot_bottle.image.spec import Digest, Platform

_FOLDER = "io.containerd.content.v1.content"
_SYSTEM_ROOT = Path("/var/lib/containerd")
_SYSTEM_CONFIG = Path("/etc/containerd/config.toml")
_CONFIG_LIMIT = 1 << 20  # bytes
_ASK_SECONDS = 10.0


@contextmanager
def content_store_image(info: dict[str, Any], image_id: Digest) -> Iterator[Image | None]:
    """Open an image in the content store of the engine that `info` describes, for the block.

    Yields None where no readable store has it. Raises ImageError where one has it, but damaged, or for
    another platform than this machine's.
    """
    with ExitStack() as stack:
        store = next((root for root in _stores(info) if _holds(root, image_id)), None)
        if store is None:
            yield None
            return
        find = partial(find_blob, FolderMembers(store, stack))
        wanted = Platform.of_this_machine()
        yield image_found(find_image(find, image_id, wanted, "docker's image store"), wanted)


def _stores(info: dict[str, Any]) -> Iterator[Path]:
    """Yield the folders in which the content store may be, the most likely first."""
    docker_root = Path(str(info.get("DockerRootDir") or "/var/lib/docker"))
    roots = [docker_root / "containerd" / "daemon", _SYSTEM_ROOT]
    with suppress(OSError, ValueError, TypeError, KeyError), _SYSTEM_CONFIG.open("rb") as file:
        roots.append(Path(tomllib.loads(file.read(_CONFIG_LIMIT).decode())["root"]))
    yield from (root / _FOLDER for root in roots)
    with suppress(KeyError):
        yield from _asked(part(info, "Containerd")["Address"])


def _asked(address: str) -> Iterator[Path]:
    """Yield the folder that the containerd at a socket reports; its client is part of it."""
    ctr = process.find("ctr")
    if ctr is None or not address.startswith("/"):
        return
    command = (str(ctr), f"--address={address}", "plugins", "ls", "--detailed", "id==content")
    with suppress(process.CommandFailed):
        for line in process.run(command, timeout=_ASK_SECONDS).text.splitlines():
            name, _, value = line.strip().partition(" ")
            if name == "root" and value.strip().startswith("/"):
                yield Path(value.strip())


def _holds(store: Path, digest: Digest) -> bool:
    try:
        return (store / "blobs" / digest.algorithm / digest.hex).is_file()
    except OSError:  # not readable for us
        return False
