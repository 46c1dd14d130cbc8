"""A bottle as a container of docker or podman: on the host's kernel, restricted as far as the engine can."""

from __future__ import annotations

import os
import re
import select
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from typing import IO

from bot_bottle.backend.base import BottleConfig, OnProved, Place, process_identity, wait, with_placeholders
from bot_bottle.backend.container.commands import PIDS, bind_option, create_options, env_file, user_options
from bot_bottle.backend.container.entrypoint import (
    ENTRYPOINT,
    Entrypoint,
    Image,
    entrypoint,
    inspect_image,
    is_loader_variable,
    lost_in_shell,
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
from bot_bottle.backend.users import UNKNOWN_USER
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import BootError, BottleError, EngineError
from bot_bottle.host import signals
from bot_bottle.host.process import Child, Completed
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.network.credentials import BUNDLE, CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.probes import BUSYBOX, TOOLKIT, Probe, Proof, canary

STRAY = "bottle-container"
_LABEL = "bot-bottle.bottle"
_DRAIN = 5.0  # seconds to wait for a client's last error output after it has exited
_SIGNALLED = 128  # plus the number of the signal: the exit status of a command that a signal ended
_BROKEN = b"broken pipe\n"
_USER = re.compile(r"unable to find (user|group)|no matching entries|uids and gids must be")


class ContainerBottle:
    """A bottle whose container is created and not yet started. Made by `launch`."""

    def __init__(
        self,
        launch: BottleConfig,
        engine: Engine,
        image: Image,
        entrypoint: Entrypoint,
        network: Network,
        options: Sequence[str],
    ) -> None:
        self.launch = launch
        self._network = network
        self._options = options
        self._engine = engine
        self._image = image
        self._entrypoint = entrypoint

    @property
    def place(self) -> Place:
        """Where it runs."""
        return "container"

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        """Run the bottle's command on our own streams and return its exit status.

        The first Ctrl-C (or SIGTERM, SIGHUP) goes to the command; the second raises Interrupted. Raises
        EngineError when the engine refuses, WallsError when it ignores a restriction that was requested, and
        what `on_proved` raises, which is called with the result of the probes before the command starts.
        """
        containers = self._engine.containers
        with ExitStack() as held:
            tried = probes(self.launch.egress, held.enter_context(canary()))
            self._entrypoint.ask(inside(tried))
            self._create(tty=tty)
            with (
                signals.capture_signals() as received,
                containers.start(self.launch.name, terminal=tty) as client,
                _relayed(client.stderr),
            ):
                started = self._release(client, received, tried, on_proved, tty=tty)
                held.close()
                ended = wait(client, received, self._pass_on, self._remove, self.launch.timeout)
        lost = bool(ended) and not received
        unread = lost and _reader_is_gone()
        if unread and containers.inspect(self.launch.name)["State"].get("Running"):
            return _SIGNALLED + signal.SIGPIPE  # as for a program that writes itself
        status = self._status()
        if lost and started and not status:  # the output could not be written, as on a full disk
            return _SIGNALLED + signal.SIGPIPE if unread else ended if ended > 0 else _SIGNALLED - ended
        if not (started or received or status):
            raise BootError("the container exited before its command started")
        return status

    def run_before(self, command: tuple[str, ...]) -> int:
        """Run another command before the bottle's own, in a container that is removed afterwards."""
        other = copy(self)
        other.launch = self.launch.for_command(command)
        try:
            return other.run(tty=False)
        finally:
            self._remove()

    def run_after(self, command: tuple[str, ...]) -> Completed:
        """Run another command when the bottle's own has exited, in the same container, started again."""
        containers = self._engine.containers
        if containers.inspect(self.launch.name)["State"].get("Running"):  # nobody reads its output any more
            raise EngineError("the command was ended, and did not exit")
        self._entrypoint.replace(command)
        return containers.start_again(self.launch.name)

    def _release(
        self, client: Child, received: list[int], tried: Sequence[Probe], on_proved: OnProved, *, tty: bool
    ) -> bool:
        """Release the command if the probes succeed from inside; return whether it runs."""

        def alive() -> bool:
            return client.code is None and not received

        report = self._entrypoint.report(alive)
        if not alive():
            return False
        self._network.forget()  # connections that the probes were refused
        on_proved(judged(report, tried))
        secrets = {name: secret.reveal() for name, secret in self.launch.secrets.items()}
        again = lost_in_shell({**self._image.env, **self.launch.variables(tty=tty)})
        self._entrypoint.release({**again, **secrets}, alive)
        return True

    def _create(self, *, tty: bool) -> None:
        launch = self.launch
        labels = _labels(launch)
        options = [f"--name={launch.name}", *(f"--label={key}={value}" for key, value in labels.items())]
        options += [*self._options, *self._network.options]
        options += [] if self._network.shared else [f"--hostname={launch.slug}"]
        options += [bind_option(self._entrypoint.folder, TOOLKIT, "readonly")]
        command = (*ENTRYPOINT, *launch.before, *(launch.command or self._image.command))
        variables = launch.variables(tty=tty)
        blanked = {name: "" for name in {**self._image.env, **variables} if is_loader_variable(name)}
        with env_file(self._entrypoint.folder.parent, {**variables, **blanked}) as (path, inherited):
            options += [f"--env-file={path}", *(f"--env={name}" for name in inherited)]
            options += create_options(launch, network=self._network.mode, tty=tty)
            options += [*self._engine.limit_options(), f"--entrypoint={command[0]}"]
            env = {**os.environ, **inherited}
            done = self._engine.containers.create(self._image.id, command[1:], options, env=env)
        if done.code:
            step = "install catatonit (Debian's package)" if "container-init" in done.complaint else ""
            raise EngineError(
                f"{self._engine.name} could not create the container", why=done.complaint, next_step=step
            )
        self._check_in_force()

    def _check_in_force(self) -> None:
        """Refuse a container that lacks a requested restriction. Raises WallsError."""
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
            raise EngineError(f"{self._engine.name} detached from the container before its command exited")
        if state.get("Status") in ("created", "configured", "initialized") and code not in (126, 127):
            why = str(state.get("Error") or "")
            step = UNKNOWN_USER if _USER.search(why) else ""
            raise BootError("the container did not start", why=why, next_step=step)
        return code

    def _pass_on(self, signum: int) -> None:
        name = signal.Signals(signum).name.removeprefix("SIG")
        self._engine.containers.kill(self.launch.name, name)

    def _remove(self) -> None:
        self._engine.containers.remove(f"{_LABEL}={self.launch.slug}")


@contextmanager
def _relayed(stream: IO[bytes] | None) -> Iterator[None]:
    """Copy a client's error output to our standard error, wherever that leads by then (`run -d`).

    Except that the reader of our standard output is gone: other programs do not report that either.
    """

    def copy() -> None:
        with suppress(OSError, ValueError):  # it is closed when the client had to be killed
            while stream is not None and (data := os.read(stream.fileno(), 1 << 16)):
                if data.endswith(_BROKEN) and _reader_is_gone():
                    data = data[: data.rfind(b"\n", 0, -1) + 1]
                with suppress(OSError):  # without a reader, the command goes on all the same
                    while data:
                        data = data[os.write(2, data) :]

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    yield
    thread.join(_DRAIN)  # not after an error: the client still runs then


@contextmanager
def launch(
    launch: BottleConfig, image: str, engine: Engine, run: RunDir, record: EgressFiles, progress: Progress
) -> Iterator[ContainerBottle]:
    """Create a bottle's container; however the block ends, nothing of it remains.

    `image` is an id.
    """
    info = engine.info()
    check_seccomp(engine, info)
    check_limits(engine, info)
    label = f"{_LABEL}={launch.slug}"
    own = inspect_image(engine, image, launch)
    with ExitStack() as stack:
        credentials, launch = with_placeholders(launch)
        mounts = stack.enter_context(mount_options(launch, engine, image, run))
        entry = stack.enter_context(entrypoint(run, progress))
        with defer_signals():
            engine.containers.record(run, STRAY, label)
            stack.callback(_remove_quietly, engine, label)
        store = CredentialStore(credentials, entry.folder / BUNDLE)
        net = stack.enter_context(network(launch, engine, _labels(launch), record, run, store, progress))
        if net.shared:  # remove containers before their clients exit, which would take long otherwise
            stack.callback(_remove_quietly, engine, label)
        options = [*privilege_options(engine, info), *seccomp_options(engine, info, run.path), *mounts]
        yield ContainerBottle(launch, engine, own, entry, net, options)


def _labels(launch: BottleConfig) -> dict[str, str]:
    return {_LABEL: launch.slug, "bot-bottle.owner": process_identity()}


def execute(launch: BottleConfig, engine: Engine, run: RunDir, *, tty: bool) -> int:
    """Run another command in a bottle of another process, and return its exit status.

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
    # some releases of the engines also return 126 for a missing command
    return 127 if code == 126 and _is_missing(engine, launch) else code


def _is_missing(engine: Engine, launch: BottleConfig) -> bool:
    """Return whether a command that could not be started is missing in the container."""
    name = launch.command[0]
    options = [f"--user={launch.user}"] if launch.user else []
    look_up = ("test", "-e", name) if "/" in name else ("which", name)
    return engine.containers.output_of(launch.name, [*BUSYBOX, *look_up], options).code == 1


def _reader_is_gone() -> bool:
    """Return whether our standard output is a pipe without a reader."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _remove_quietly(engine: Engine, label: str) -> None:
    with defer_signals(), suppress(BottleError):
        engine.containers.remove(label)
