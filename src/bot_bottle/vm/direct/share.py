"""A folder of this machine in a guest that QEMU runs: a process beside QEMU serves it (virtiofs).

The server is our own, so that any user has one, and the caller's files are the bottle's user's in the guest.
It has the caller's rights and reaches nothing but the folder. See `virtiofs.server`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import WorkspaceError
from bot_bottle.host import process
from bot_bottle.host.bare_helper import bare_helper
from bot_bottle.host.process import Child
from bot_bottle.host.system_errors import ALLOW_NAMESPACES
from bot_bottle.host.wait import wait_until
from bot_bottle.vm.direct.qemu import BUSES
from bot_bottle.vm.direct.virtiofs import SOCKET

PLACE = "/run/share"  # in the guest

_TAG = "share"
_LOG = "share.log"
_LOG_SHOWN = 4096
_START = 60.0  # seconds
_QUEUE = 512  # requests with their parts


class Share(Struct, frozen=True):
    """A folder that is served to one guest. Made by `shared_folder`."""

    child: Child

    place = PLACE

    # the server reads and writes the guest's memory
    machine_options = ",memory-backend=memory"

    # lines of a script of the guest, which mount the folder at PLACE
    setup = f"mkdir -p {PLACE} && mount -t virtiofs -o nodev {_TAG} {PLACE}"

    def qemu_options(self, memory_mib: int) -> list[str]:
        """Return QEMU's options, for a guest with so much memory."""
        return [
            *("-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on"),
            *("-chardev", f"socket,id={_TAG},path={SOCKET}"),
            *(
                "-device",
                f"vhost-user-fs-device,{BUSES['share']},chardev={_TAG},tag={_TAG},queue-size={_QUEUE}",
            ),
        ]

    def end_with(self, qemu: Child) -> None:
        """End QEMU when the server ends before it: the guest would wait for its files for ever."""

        def wait() -> None:
            self.child.wait()
            if qemu.code is None:
                qemu.send(signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()


@contextmanager
def shared_folder(source: Path, uid: int, gid: int, kept: Sequence[str], folder: Path) -> Iterator[Share]:
    """Serve a folder until the block ends, its owner's files as those of `uid` and `gid`.

    `kept` names files and folders in it that are read-only. `folder` is the machine's, in which QEMU finds
    the socket: QEMU is to be started in the block. Raises WorkspaceError.
    """
    asked = {
        "parent": os.getpid(),
        "folder": str(folder.absolute()),
        "source": str(source.absolute()),
        "kept": list(kept),
        "uid": uid,
        "gid": gid,
    }
    start = bare_helper("bot_bottle.vm.direct.virtiofs.server", asked)
    argv = process.ShownAs(start, [sys.executable, "-m", f"{__package__}.virtiofs.server", json.dumps(asked)])
    with (folder / _LOG).open("wb") as log, process.background(argv, output=log) as child:
        wait_until(lambda: (folder / SOCKET).exists() or child.code is not None, _START, pause=0.002)
        if child.code is not None or not (folder / SOCKET).exists():
            raise WorkspaceError(
                f"{source} cannot be shared with the bottle",
                why=_log(folder),
                next_step=ALLOW_NAMESPACES,
            )
        yield Share(child)


def _log(folder: Path) -> str:
    with (folder / _LOG).open("rb") as file:
        return file.read(_LOG_SHOWN).decode("utf-8", "replace").strip()
