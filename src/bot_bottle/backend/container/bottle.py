"""A bottle as a container: the host's kernel, hardened as far as the engine goes. For docker and podman."""

from __future__ import annotations

import os
import re
import select
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import replace
from typing import IO

from bot_bottle.backend.base import BottleConfig, OnProved, Place, process_identity, wait
from bot_bottle.backend.container.commands import PIDS, bind_option, create_options, env_file, user_options
from bot_bottle.backend.container.entrypoint import (
    ENTRYPOINT,
    Gate,
    Image,
    gate,
    held_up,
    is_for_loader,
    look,
)
from bot_bottle.backend.container.mounts import mount_options
from bot_bottle.backend.container.network import Network, network
from bot_bottle.backend.container.privileges import (
    check_limits,
    check_seccomp,
    not_in_force,
    privilege_options,
)
from bot_bottle.backend.container.probes import inside, judged, probes, prove_privileges
from bot_bottle.backend.container.seccomp import seccomp_options
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import BootError, BottleError, EngineError
from bot_bottle.host import signals
from bot_bottle.host.process import Child
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.network.credentials import BUNDLE, Kept, Withheld, variables
from bot_bottle.network.probes import BUSYBOX, KIT, Probe, Proof, canary
from bot_bottle.network.proxy_process import Record

STRAY = "bottle-container"
_LABEL = "bot-bottle.bottle"
_DRAIN = 5.0  # seconds, for what a client has said to come through when it has ended
_SIGNALLED = 128  # and the number of the signal: the exit status of a command that a signal ended
_BROKEN = b"broken pipe\n"
_USER = re.compile(r"unable to find (user|group)|no matching entries|uids and gids must be")


class ContainerBottle:
    """A bottle whose container is made and not yet started. Made by `launch`."""

    def __init__(
        self,
        launch: BottleConfig,
        engine: Engine,
        image: Image,
        gate: Gate,
        network: Network,
        options: Sequence[str],
    ) -> None:
        self.launch = launch
        self._network = network
        self._options = options
        self._engine = engine
        self._image = image
        self._gate = gate

    @property
    def place(self) -> Place:
        """Where it runs."""
        return "container"

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        """Run the bottle's command on our own streams and give its exit status.

        The first Ctrl-C (or SIGTERM, SIGHUP) goes to the command; the second raises Interrupted. Raises
        EngineError when the engine refuses, WallsError when it drops a limit or a wall that was asked for,
        and what `on_proved` raises, which is given what was found of the walls before the command starts.
        """
        containers = self._engine.containers
        with ExitStack() as held:
            tried = probes(self.launch.egress, held.enter_context(canary()))
            self._gate.ask(inside(tried))
            self._create(tty=tty)
            with (
                signals.capture_signals() as received,
                containers.start(self.launch.name, terminal=tty) as client,
                _relayed(client.stderr),
            ):
                started = self._let_through(client, received, tried, on_proved, tty=tty)
                held.close()
                ended = wait(client, received, self._pass_on, self._remove)
        lost = bool(ended) and not received
        unread = lost and _reader_is_gone()
        if unread and containers.inspect(self.launch.name)["State"].get("Running"):
            return _SIGNALLED + signal.SIGPIPE  # as for a program that writes by itself
        status = self._status()
        if lost and started and not status:  # the output could not be written, as on a full disk
            return _SIGNALLED + signal.SIGPIPE if unread else ended if ended > 0 else _SIGNALLED - ended
        if not (started or received or status):
            raise BootError("the container ended before its command began")
        return status

    def run_before(self, command: tuple[str, ...]) -> int:
        """Run another command before the bottle's own, in a container of its own that is gone afterwards."""
        other = copy(self)
        other.launch = self.launch.for_command(command)
        try:
            return other.run(tty=False)
        finally:
            self._remove()

    def _let_through(
        self, client: Child, received: list[int], tried: Sequence[Probe], on_proved: OnProved, *, tty: bool
    ) -> bool:
        """Let the command start when its walls have been proved from inside; not, if it is to end already."""

        def alive() -> bool:
            return client.code is None and not received

        report = self._gate.report(alive)
        if not alive():
            return False
        on_proved(judged(report, tried))
        self._network.forget()  # what the probes were refused
        secrets = {name: secret.reveal() for name, secret in self.launch.secrets.items()}
        again = held_up({**self._image.env, **self.launch.variables(tty=tty)})
        self._gate.let_through({**again, **secrets}, alive)
        return True

    def _create(self, *, tty: bool) -> None:
        launch = self.launch
        labels = _labels(launch)
        options = [f"--name={launch.name}", *(f"--label={key}={value}" for key, value in labels.items())]
        options += self._options
        options += [] if self._network.shared else [f"--hostname={launch.slug}"]
        options += [bind_option(self._gate.folder, KIT, "readonly")]
        command = (*ENTRYPOINT, *launch.before, *(launch.command or self._image.command))
        variables = launch.variables(tty=tty)
        blanked = {name: "" for name in {**self._image.env, **variables} if is_for_loader(name)}
        with env_file(self._gate.folder.parent, {**variables, **blanked}) as (path, inherited):
            options += [f"--env-file={path}", *(f"--env={name}" for name in inherited)]
            options += create_options(launch, network=self._network.mode, tty=tty)
            options += [*self._engine.limit_options(), f"--entrypoint={command[0]}"]
            env = {**os.environ, **inherited}
            done = self._engine.containers.create(self._image.id, command[1:], options, env=env)
        if done.code:
            step = "install catatonit (Debian's package)" if "container-init" in done.complaint else ""
            raise EngineError(
                f"{self._engine.name} could not make the container", why=done.complaint, next_step=step
            )
        self._hold_in_force()

    def _hold_in_force(self) -> None:
        """Refuse a container that has fewer walls or limits than were asked for."""
        host = self._engine.containers.inspect(self.launch.name)["HostConfig"]
        wanted = {
            "Memory": self.launch.memory_mib << 20,
            "NetworkMode": self._network.mode,
            "Privileged": False,
            "PidsLimit": PIDS,
        }
        if self.launch.egress.open:  # engines have several names for it
            del wanted["NetworkMode"]
        dropped = [key for key, value in wanted.items() if host.get(key) != value]
        if dropped:
            raise not_in_force(self._engine, dropped)

    def _status(self) -> int:
        state = self._engine.containers.inspect(self.launch.name)["State"]
        code = int(state.get("ExitCode") or 0)
        if state.get("Running"):
            raise EngineError(f"{self._engine.name} let go of the container before its command ended")
        if state.get("Status") in ("created", "configured", "initialized") and code not in (126, 127):
            why = str(state.get("Error") or "")
            step = "correct USER in the Dockerfile, or name another with --user" if _USER.search(why) else ""
            raise BootError("the container did not start", why=why, next_step=step)
        return code

    def _pass_on(self, signum: int) -> None:
        name = signal.Signals(signum).name.removeprefix("SIG")
        self._engine.containers.kill(self.launch.name, name)

    def _remove(self) -> None:
        self._engine.containers.remove(f"{_LABEL}={self.launch.slug}")


@contextmanager
def _relayed(stream: IO[bytes] | None) -> Iterator[None]:
    """Copy what a client complains of to our standard error, wherever that leads by then (`run -d`).

    Except that the reader of our standard output has gone: other programs do not report that either.
    """

    def copy() -> None:
        with suppress(OSError, ValueError):  # it is closed when the client had to be ended
            while stream is not None and (data := os.read(stream.fileno(), 1 << 16)):
                if data.endswith(_BROKEN) and _reader_is_gone():
                    data = data[: data.rfind(b"\n", 0, -1) + 1]
                with suppress(OSError):  # nobody listens; the command goes on all the same
                    while data:
                        data = data[os.write(2, data) :]

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    yield
    thread.join(_DRAIN)  # not after an error: the client still runs then


@contextmanager
def launch(
    launch: BottleConfig, image: str, engine: Engine, run: RunDir, record: Record, progress: Progress
) -> Iterator[ContainerBottle]:
    """Make a bottle's container; when the block ends, by any way, nothing of it is left.

    `image` is an id.
    """
    info = engine.info()
    check_seccomp(engine, info)
    check_limits(engine, info)
    label = f"{_LABEL}={launch.slug}"
    own = look(engine, image, launch)
    with ExitStack() as stack:
        withheld = [Withheld(name, each.hosts, each.value) for name, each in launch.credentials.items()]
        launch = replace(launch, env={**variables(withheld), **launch.env})
        mounts = stack.enter_context(mount_options(launch, engine, image, run))
        door = stack.enter_context(gate(run, progress))
        with defer_signals():
            engine.containers.record(run, STRAY, label)
            stack.callback(_remove_quietly, engine, label)
        kept = Kept(withheld, door.folder / BUNDLE)
        net = stack.enter_context(network(launch, engine, _labels(launch), record, run, kept, progress))
        if net.shared:  # the containers go before the clients that hold them: those would take their time
            stack.callback(_remove_quietly, engine, label)
        options = [*privilege_options(engine, info), *seccomp_options(engine, info, run.path), *mounts]
        yield ContainerBottle(launch, engine, own, door, net, options)


def _labels(launch: BottleConfig) -> dict[str, str]:
    return {_LABEL: launch.slug, "bot-bottle.owner": process_identity()}


def execute(launch: BottleConfig, engine: Engine, run: RunDir, *, tty: bool) -> int:
    """Run another command in a bottle that another process holds, and give its exit status.

    Raises WallsError when the command would have other privileges than it should.
    """
    prove_privileges(engine, launch.name, launch.user).require()
    options = user_options(launch)
    with env_file(run.path, launch.variables(tty=tty)) as (path, inherited):
        options += [f"--env-file={path}", *(f"--env={name}" for name in inherited)]
        env = {**os.environ, **inherited}
        attached = engine.containers.execute(launch.name, launch.command, options, env=env, terminal=tty)
        with attached as client, _relayed(client.stderr):
            code = client.wait()
    if code is None or code < 0:
        return _SIGNALLED - (code or -signal.SIGKILL)
    # some releases of the engines answer 126 for a command that is not there, too
    return 127 if code == 126 and _is_missing(engine, launch) else code


def _is_missing(engine: Engine, launch: BottleConfig) -> bool:
    """Return whether a command that could not be started is not in the container."""
    name = launch.command[0]
    options = [f"--user={launch.user}"] if launch.user else []
    look_up = ("test", "-e", name) if "/" in name else ("which", name)
    return engine.containers.output_of(launch.name, [*BUSYBOX, *look_up], options).code == 1


def _reader_is_gone() -> bool:
    """Return whether nobody reads what is written to our standard output, a pipe."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _remove_quietly(engine: Engine, label: str) -> None:
    with defer_signals(), suppress(BottleError):
        engine.containers.remove(label)
