"""Whose files the guest sees."""

from __future__ import annotations

import os
from dataclasses import dataclass

NOBODY = 65534  # as the kernel shows owners whom a user namespace does not have (overflowuid)


@dataclass(frozen=True, slots=True)
class Owners:
    """The caller's numbers, and those of the bottle's user that are shown for them."""

    uid: int
    gid: int
    shown_uid: int
    shown_gid: int

    def shown(self, found: os.stat_result) -> tuple[int, int]:
        """Return the owner and the group of a file that the guest is shown."""
        uid = self.shown_uid if found.st_uid == self.uid else NOBODY
        gid = self.shown_gid if found.st_gid == self.gid else NOBODY
        return uid, gid
