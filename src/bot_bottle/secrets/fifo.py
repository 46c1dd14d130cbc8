"""Values passed to a program through FIFOs: each is read once, and stored nowhere.

Every process of the same user can read a variable in the program's environment for as long as the program
runs, and a file remains when its writer is killed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bot_bottle.host.redact import Secret


@contextmanager
def secret_fifos(values: Mapping[str, Secret], folder: Path) -> Iterator[dict[str, str]]:
    """Yield the path of a FIFO for each value, in a private folder within `folder`.

    A process that opens one reads the value. When the block ends the FIFOs are removed, read or not.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="handover-") as place:  # mode 0700
        pipes = {name: Path(place) / name for name in values}
        writers = []
        for name, pipe in pipes.items():
            os.mkfifo(pipe, 0o600)
            writers.append(threading.Thread(target=_write, args=(pipe, values[name]), daemon=True))
        for writer in writers:
            writer.start()
        try:
            yield {name: str(pipe) for name, pipe in pipes.items()}
        finally:
            for pipe, writer in zip(pipes.values(), writers, strict=True):
                _let_go(pipe, writer)


def _write(pipe: Path, value: Secret) -> None:
    with contextlib.suppress(OSError):  # the reader has closed it
        descriptor = os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)  # waits for a reader
        with os.fdopen(descriptor, "wb") as file:
            file.write(value.reveal().encode())


def _let_go(pipe: Path, writer: threading.Thread) -> None:
    """End a writer that waits for a reader: open the FIFO, and close it."""
    while writer.is_alive():
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        writer.join(0.01)
