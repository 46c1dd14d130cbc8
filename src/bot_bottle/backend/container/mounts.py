"""A container's workspace: the caller's folder, whose files look like those of the container's user.

How this is done depends on the engine. A rootless one (podman) maps the caller to the user itself. One that
runs as root needs an id-mapped mount, unless both have the same uid.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.container import idmap_helper as helper
from bot_bottle.backend.container.commands import bind_option
from bot_bottle.backend.image_users import of_image
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.info import is_rootless, remaps_users
from bot_bottle.errors import WorkspaceError
from bot_bottle.host.rundir import RunDir
from bot_bottle.workspace import idmap
from bot_bottle.workspace.spec import Mount


@contextmanager
def mount_options(launch: BottleConfig, engine: Engine, image: str, run: RunDir) -> Iterator[list[str]]:
    """Yield the options of the engine's `create` for the bottle's workspace, valid until the block ends.

    Raises WorkspaceError when this engine cannot map the folder to the user.
    """
    mount = launch.workspace
    if mount is None:
        yield []
        return
    uid, gid = of_image(engine, image, launch.user, run)
    with ExitStack() as stack:
        info = engine.info()
        if remaps_users(info):
            raise _remapped(engine)
        if is_rootless(info):
            options = _mapped_by_engine(engine, uid, gid)
            yield options + _as_it_is(mount)
        elif uid == os.geteuid():
            yield _as_it_is(mount)
        elif os.geteuid() == 0:
            yield _mapped_by_us(mount, uid, gid, run, stack)
        else:
            places = stack.enter_context(helper.idmapped_mounts(mount, uid, gid, engine, run))
            yield _placed(mount, places)


def _refused(engine: Engine, uid: int) -> WorkspaceError:
    return WorkspaceError(
        f"{engine.name} cannot map your files to user {uid} in the container",
        why="the engine is rootless: only the container's root is your user",
        next_step="use --backend smolmachines, podman, or --user 0",
    )


def _remapped(engine: Engine) -> WorkspaceError:
    return WorkspaceError(
        f"{engine.name} cannot map your folder to the container's user",
        why="the engine maps the users of its containers itself (userns-remap)",
        next_step="use --backend smolmachines, podman, or an engine without userns-remap",
    )


def _mapped_by_engine(engine: Engine, uid: int, gid: int) -> list[str]:
    if uid == 0 and (gid == 0 or engine.name == "docker"):
        return []  # root in the container is the caller; with keep-id it would have no capabilities
    if engine.name == "podman":
        return [f"--userns=keep-id:uid={uid},gid={gid}"]
    raise _refused(engine, uid)


def _mapped_by_us(mount: Mount, uid: int, gid: int, run: RunDir, stack: ExitStack) -> list[str]:
    folders = [mount.source, *(mount.source / name for name in mount.kept)]
    return _placed(
        mount, [stack.enter_context(idmap.idmapped_mount(each, uid, gid, run)) for each in folders]
    )


def _as_it_is(mount: Mount) -> list[str]:
    return _placed(mount, [mount.source, *(mount.source / name for name in mount.kept)])


def _placed(mount: Mount, places: Sequence[Path]) -> list[str]:
    """Return the options for a workspace and its read-only parts, from where they are."""
    kept = zip(places[1:], mount.kept, strict=True)
    options = [bind_option(place, f"{mount.target}/{name}", "readonly") for place, name in kept]
    return [bind_option(places[0], mount.target), *options]
