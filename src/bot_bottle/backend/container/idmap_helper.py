"""Id-mapped mounts for callers who are not root, through an engine that is: a container of ours makes them.

Every user of such an engine has this permission. The container has smolvm's guest system, which contains
`mount`, sees the folder and the mount point, and has no network and only the capabilities that mounting
needs. It exits at once; the mount stays, and another such container unmounts it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bot_bottle.backend.container.commands import bind_option
from bot_bottle.engine.containers import Containers
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.images import import_image
from bot_bottle.errors import EngineError, WorkspaceError
from bot_bottle.host import paths
from bot_bottle.host.process import CommandFailed
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.vm.guest_rootfs import find_guest
from bot_bottle.workspace.idmap import is_mounted, swap_id_map
from bot_bottle.workspace.spec import Mount

STRAY = "engine-mount"

# to mount, to write the map of a user namespace that has root in it, to reach the caller's private files
_RIGHTS = ("SYS_ADMIN", "SETUID", "SETGID", "SETFCAP", "DAC_READ_SEARCH")

# MAP SOURCE PLACE ...
_MAKE = """\
map=$1; shift
while [ $# -gt 0 ]; do
  mount --bind -o "nosuid,nodev,X-mount.idmap=$map" "$1" "$2" || exit 1
  shift 2
done
"""
_TAKE_AWAY = 'for place; do umount -l "$place" || exit 1; done'


@contextmanager
def idmapped_mounts(mount: Mount, uid: int, gid: int, engine: Engine, run: RunDir) -> Iterator[list[Path]]:
    """Mount a workspace, and its read-only parts, as that user's for the block; yield the mount points.

    Raises WorkspaceError when the engine or the file system cannot do it.
    """
    image = helper_image(engine, run)
    base = paths.state_dir() / "mounts"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folders = [mount.source, *(mount.source / name for name in mount.kept)]
    places = [base / secrets.token_hex(8) for _ in folders]
    facts = {**engine.to_record(), "image": image, "places": list(map(str, places))}
    run.record(STRAY, **facts)
    try:
        with defer_signals():
            for folder, place in zip(folders, places, strict=True):
                place.mkdir(mode=0o700) if folder.is_dir() else place.touch(mode=0o600)
            _make(engine, image, mount, base, places, uid, gid)
        yield places
    finally:
        with defer_signals():
            sweep(facts)


def sweep(stray: dict[str, Any]) -> None:
    """Unmount and remove mount points (the sweeper of `engine-mount`). Raises CommandFailed."""
    places = [Path(place) for place in stray["places"]]
    mounted = [place for place in places if is_mounted(place)]
    if mounted:
        base = places[0].parent
        options = [bind_option(base, "/to", "bind-propagation=rshared")]
        inside = [f"/to/{place.name}" for place in mounted]
        _run(Containers.from_record(stray), stray["image"], options, _TAKE_AWAY, inside)
    for place in places:
        with suppress(FileNotFoundError):
            place.rmdir() if place.is_dir() else place.unlink()


def _make(
    engine: Engine, image: str, mount: Mount, base: Path, places: Sequence[Path], uid: int, gid: int
) -> None:
    options = [
        bind_option(mount.source, "/from"),
        bind_option(base, "/to", "bind-propagation=rshared"),
    ]
    sources = ["/from", *(f"/from/{name}" for name in mount.kept)]
    pairs = [
        part for source, place in zip(sources, places, strict=True) for part in (source, f"/to/{place.name}")
    ]
    ids = f"{_map('u', os.geteuid(), uid)} {_map('g', os.getegid(), gid)}"
    try:
        _run(engine.containers, image, options, _MAKE, [ids, *pairs])
    except CommandFailed as error:
        raise WorkspaceError(
            f"{engine.name} cannot id-map your folder to the container's user",
            why=f"{error.why}\nthis needs Linux 5.12, a file system with id-mapped mounts, "
            f"and a shared mount that contains {base}",
            next_step="use --backend smolmachines, podman without root, or "
            f"--user {os.geteuid()}:{os.getegid()}",
        ) from error


def _map(kind: str, mine: int, theirs: int) -> str:
    """Return mount(8)'s X-mount.idmap that swaps two owners."""
    return " ".join(
        f"{kind}:{inside}:{outside}:{count}" for inside, outside, count in swap_id_map(mine, theirs)
    )


def _run(
    containers: Containers, image: str, mounts: Sequence[str], script: str, arguments: Sequence[str]
) -> None:
    options = ["--pull=never", "--network=none", "--log-driver=none", "--cap-drop=ALL"]
    options += [f"--cap-add={right}" for right in _RIGHTS]
    options += ["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--user=0"]
    containers.run(image, ["sh", "-c", script, "sh", *arguments], [*options, *mounts])


def helper_image(engine: Engine, run: RunDir) -> str:
    """Return the helper's image, which is made from smolvm's guest system once for each version."""
    guest = find_guest()
    tag = f"bot-bottle-helper:{guest.version}"
    if engine.exists(tag):
        return tag
    with tempfile.TemporaryFile(dir=run.path) as tar:
        tar.writelines(guest.read())
        tar.seek(0)
        done = import_image(engine, tar, tag)
    if done.code:
        raise EngineError(f"{engine.name} could not import the helper's image", why=done.complaint)
    return tag
