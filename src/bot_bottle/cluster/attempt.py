"""The processes of a node's bottles: `python -m bot_bottle.cluster.attempt`.

Loading the program takes longer than much of what a bottle does, so it is loaded once, and forks for each
bottle. Its standard input is a socket: for each bottle two descriptors come in, the pid goes out, and then
the exit status. The first of the two is a socket too: the bottle's order comes in, its report goes out, and
its end means that nobody waits for the bottle any more. The second takes the bottle's output.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from bot_bottle.agent.state import State
from bot_bottle.backend.choice import backend_for
from bot_bottle.bottle import records
from bot_bottle.bottle.run import run_bottle
from bot_bottle.cluster.files import found_artifact
from bot_bottle.cluster.order import GIVEN_STATE, NEW_STATE, Order, Values
from bot_bottle.cluster.starter import NUMBER
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.errors import BottleError, Interrupted
from bot_bottle.host import paths, signals
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import redacted
from bot_bottle.host.system_errors import explained
from bot_bottle.host.text import printable_lines
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.structs import replace

_SENT = "BOT_BOTTLE_SENT_SECRET_"
_PATIENCE = 10.0  # seconds between the two signals to a bottle that nobody waits for


def main() -> None:
    """Fork for each bottle that comes in, one after the other, until no more can come."""
    backend = backend_for(*sys.argv[1:])  # type: ignore[arg-type]  # which loads it
    engine = None if backend.boots_artifact else _engine()
    starter = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    gc.freeze()  # the program stays: no bottle has to search it for garbage
    with suppress(ConnectionError):  # the worker was killed: its bottle ends by itself
        while descriptors := socket.recv_fds(starter, 1, 2)[1]:
            if not (pid := os.fork()):
                signals.install()
                os.setsid()
                starter.sendall(os.getpid().to_bytes(NUMBER))
                starter.close()
                _bottle(engine, *descriptors)
                _leave()
            for each in descriptors:
                os.close(each)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            starter.sendall(code.to_bytes(NUMBER, signed=True))


def _engine() -> Engine | None:
    """Return this node's engine, which all bottles use; without an answer they ask, and say what is wrong."""
    with suppress(BottleError):
        engine = find_engine()
        engine.info()
        return engine
    return None


def _leave() -> NoReturn:
    """End a bottle's process without freeing the program first, which takes longer than its end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(0)


def _bottle(engine: Engine | None, given: int, output: int) -> None:
    """Run the bottle of the order that comes in, and report how it ended."""
    channel = socket.socket(fileno=given)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    order, values, state = _receive(channel)
    os.environ["BOT_BOTTLE_STATE_DIR"] = state
    threading.Thread(target=_end_alone, args=(channel,), daemon=True).start()
    begun: list[bool] = []
    error: BottleError | None = None
    try:
        status = _run(order, values, engine, lambda: begun.append(True))
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


def _run(order: Order, values: Values, engine: Engine | None, on_ready: Callable[[], None]) -> int:
    """Run the bottle and return its command's status. Its spec is checked again, for this machine."""
    sent = {name: f"{_SENT}{name}" for name in values.secrets}
    os.environ.update({sent[name]: value for name, value in values.secrets.items()})
    secrets = tuple(
        replace(each, kind="env", place=sent[each.name]) if each.name in sent else each
        for each in order.spec.secrets
    )
    spec = replace(order.spec, env=tuple(values.env.items()), secrets=secrets)
    found = None if order.artifact is None else found_artifact(order.artifact)
    with _agent_state(spec.state):
        options = ConvertOptions(found=found, found_engine=engine)
        return run_bottle(spec, options, Progress(), on_ready=on_ready)


@contextmanager
def _agent_state(state: State | None) -> Iterator[None]:
    """Keep what was sent of an agent's state for the block, and write what there is then, if it is new."""
    if state is None:
        yield
        return
    with suppress(FileNotFoundError), (paths.state_dir() / GIVEN_STATE).open("rb") as given:
        state.keep(given)
    before = state.kept()
    try:
        yield
    finally:
        returned = paths.state_dir() / NEW_STATE
        try:
            if state.kept() != before:
                with returned.open("xb") as file:
                    state.copy_to(file)
        except (BottleError, OSError) as error:
            returned.unlink(missing_ok=True)
            Progress().warn(f"the state of {state.agent} is not kept: {error}")


def _receive(channel: socket.socket) -> tuple[Order, Values, str]:
    with channel.makefile("rb") as stream:
        size = int.from_bytes(stream.read(8), "big")
        given: tuple[Order, Values, str] = pickle.loads(stream.read(size))  # noqa: S301 - of our own parent
    return given


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
