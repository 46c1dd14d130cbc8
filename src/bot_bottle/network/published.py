"""Publishes ports: starts `port_forwarder`, for which a process in a network namespace makes connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bot_bottle.host import process
from bot_bottle.host.helper_process import environment, helper
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.unix_sockets import listening_for_all
from bot_bottle.network.ports import Port, listen

NAME = "ports"  # of the socket on which the process in the namespace is waited for


@contextmanager
def forwarded(ports: Sequence[Port], folder: Path, run: RunDir, progress: Progress) -> Iterator[None]:
    """Publish ports until the block ends; the process in the namespace connects to NAME in `folder`.

    Prints which they are. Raises SpecError for a port in use.
    """
    with ExitStack() as stack:
        # made here, so that the forwarder loads while the bottle starts; then it alone has them
        with ExitStack() as handed:
            server = handed.enter_context(listening_for_all(folder, NAME)).fileno()
            listeners = [(handed.enter_context(listen(port)), port.guest) for port in ports]
            opened = [Port(listener.getsockname()[1], guest) for listener, guest in listeners]
            pairs = [f"{listener.fileno()}:{guest}" for listener, guest in listeners]
            argv = helper("bot_bottle.network.port_forwarder", server, folder / NAME, *pairs)
            inherited = (server, *(listener.fileno() for listener, _ in listeners))
            output = stack.enter_context((run.path / "ports.log").open("wb"))
            child = process.background(argv, env=environment(), output=output, inherited=inherited)
            stack.enter_context(child)
        for port in opened:
            progress.note(port.describe())
        yield
