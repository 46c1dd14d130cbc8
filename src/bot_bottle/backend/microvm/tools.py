"""The folder that a machine gets at TOOLKIT: the programs of the probes, and the authorities that it trusts.

Without authorities of its own a machine gets the folder that all share. smolvm's monitor may be another user,
who has no way into our run folder, so one with authorities is beside that; nothing in it is a secret.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.network.credentials import BUNDLE
from bot_bottle.network.toolkit import prepare_toolkit
from bot_bottle.vm.package import link

STRAY = "machine-tools"
_PREFIX = "tools-"


@contextmanager
def machine_tools(bundle: str, run: RunDir, progress: Progress) -> Iterator[Path]:
    """Yield the folder, with a bundle of authorities if that is not empty, until the block ends."""
    shared = prepare_toolkit(progress)
    if not bundle:
        yield shared
        return
    with defer_signals():
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=shared.parent))
        run.record(STRAY, path=str(folder))
    try:
        folder.chmod(0o755)
        for file in shared.iterdir():
            link(file, folder / file.name)
        (folder / BUNDLE).write_text(bundle, "utf-8", "surrogateescape")
        (folder / BUNDLE).chmod(0o644)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(stray: dict[str, Any]) -> None:
    """Remove what a killed command left (the sweeper of `machine-tools`)."""
    folder = Path(stray["path"])
    if folder.name.startswith(_PREFIX) and folder.parent == paths.cache_dir() / "smolvm":
        shutil.rmtree(folder, ignore_errors=True)
