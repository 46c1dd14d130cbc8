"""Refuses a smolvm of the user's own (BOT_BOTTLE_SMOLVM) on machines without KVM."""

from __future__ import annotations

import os
from pathlib import Path

from bot_bottle.errors import SmolvmError


def reject_foreign_binary() -> None:
    """Check that BOT_BOTTLE_SMOLVM is not set: without KVM it is not used. Raises SmolvmError."""
    if named := os.environ.get("BOT_BOTTLE_SMOLVM"):
        from bot_bottle.vm.smolvm import asked  # only here: most users name none

        asked(Path(named), "BOT_BOTTLE_SMOLVM", {})
        raise SmolvmError(
            f"without KVM, bottle does not run {named}",
            why="what runs then is part of the package smolmachines",
            next_step="unset BOT_BOTTLE_SMOLVM, or use --accel kvm",
        )
