"""The process of one bottle on a node: `python -m bot_bottle.cluster.attempt`.

Its standard input is a socket: the order comes in, the report goes out, and its end means that nobody waits
for the bottle any more.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bot_bottle.bottle import records
from bot_bottle.bottle.run import run_bottle
from bot_bottle.cluster.order import Order
from bot_bottle.errors import BottleError, Interrupted
from bot_bottle.host import signals
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import redacted
from bot_bottle.host.system_errors import explained
from bot_bottle.host.text import printable_lines
from bot_bottle.pack.options import ConvertOptions

_PATIENCE = 10.0  # seconds between the two signals to a bottle that nobody waits for


def main() -> None:
    """Run the bottle of the order that comes in, and report how it ended."""
    signals.install()
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    order = _receive(channel)
    threading.Thread(target=_end_alone, args=(channel,), daemon=True).start()
    begun: list[bool] = []
    error: BottleError | None = None
    try:
        status = _run(order, lambda: begun.append(True))
    except BottleError as failure:
        error, status = failure, failure.exit_code
    except Exception as failure:
        error = explained(failure) or BottleError(f"{type(failure).__name__}: {failure}")
        status = error.exit_code
    if isinstance(error, Interrupted):
        status = 128 + error.signum
    text = redacted(str(error)) if error else ""
    if error and (begun or isinstance(error, Interrupted)):
        with suppress(OSError):
            print(printable_lines(f"bottle: {text}"), file=sys.stderr, flush=True)  # noqa: T201 - its log
    refused = bool(error) and not begun and not isinstance(error, Interrupted)
    report = {"exit_status": status, "record": _record(order), "error": text, "refused": refused}
    with suppress(OSError):
        channel.sendall(json.dumps(report).encode())


def _run(order: Order, on_ready: Any) -> int:
    spec = replace(order.spec)  # checked again: this is another machine
    return run_bottle(spec, ConvertOptions(), Progress(), on_ready=on_ready)


def _receive(channel: socket.socket) -> Order:
    with channel.makefile("rb") as stream:
        size = int.from_bytes(stream.read(8), "big")
        order = pickle.loads(stream.read(size))  # noqa: S301 - of the process that has started this one
    assert isinstance(order, Order)  # noqa: S101
    return order


def _end_alone(channel: socket.socket) -> None:
    """End the bottle in order when the process that has started this one is gone."""
    with suppress(OSError):
        channel.recv(1)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)


def _record(order: Order) -> dict[str, Any] | None:
    with suppress(BottleError):
        return records.newest(order.spec.slug).to_json()
    return None


if __name__ == "__main__":
    main()
