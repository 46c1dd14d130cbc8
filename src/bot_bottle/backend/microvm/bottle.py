"""A bottle as a microVM: smolvm boots an artifact and runs one attached command."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bot_bottle.backend.base import BottleConfig, OnProved, Place, process_identity, wait, with_placeholders
from bot_bottle.backend.image_users import of_artifact
from bot_bottle.backend.microvm import probes as proving
from bot_bottle.backend.microvm.network import Network, network
from bot_bottle.backend.microvm.tools import machine_tools
from bot_bottle.backend.microvm.variables import variables_served
from bot_bottle.backend.microvm.watch import watched
from bot_bottle.backend.users import UNKNOWN_USER
from bot_bottle.errors import BootError, BottleError, Interrupted, SmolvmError
from bot_bottle.host import signals
from bot_bottle.host.process import Completed
from bot_bottle.host.progress import Progress, Stage
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.network.credentials import BUNDLE, CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.host_ports import HOST
from bot_bottle.network.ports import allocate_host_ports
from bot_bottle.network.probes import TOOLKIT, Proof
from bot_bottle.network.smolvm_policy import network_argv
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.structs import replace
from bot_bottle.vm.accel import Accel, choose_accel
from bot_bottle.vm.capabilities import check_landlock, probe_kvm
from bot_bottle.vm.emulated.host import emulated_host
from bot_bottle.vm.host import Attached, Host, NativeHost
from bot_bottle.vm.smolvm import (
    GUEST_ENDED,
    GUEST_GONE,
    Smolvm,
    carrier_variable,
    create_argv,
    delete_argv,
    exec_argv,
    find_smolvm,
    prune_argv,
    status_argv,
)
from bot_bottle.workspace.idmap import as_user

_CREATE = 1800.0  # seconds; the artifact is unpacked, on an emulated host at some 10 MB/s
_BOOT = 300.0
_AFTER = 300.0
_QUICK = 60.0


class Bottle:
    """A running bottle. Made by `launch`."""

    def __init__(self, launch: BottleConfig, host: Host, proof: Proof, progress: Progress) -> None:
        self.launch = launch
        self._host = host
        self._proof = proof
        self._progress = progress

    @property
    def place(self) -> Place:
        """Where it runs: on `kvm` or `nested`."""
        return self._host.kind

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        """Run the bottle's command on our own streams and return its exit status.

        The first Ctrl-C (or SIGTERM, SIGHUP) goes to the command; the second raises Interrupted. Raises
        SmolvmError when smolvm failed and not the command.
        """
        on_proved(self._proof)
        with (
            signals.capture_signals() as received,
            self._host.pass_secrets(self.launch.secrets) as secrets,
        ):
            args, env = _command(self.launch, tty=tty, secrets=secrets)
            with self._host.attach(args, tty=tty, env=env) as attached:
                code = wait(
                    attached,
                    received,
                    lambda signum: self._pass_on(signum, attached),
                    attached.end,
                    self.launch.timeout,
                )
        return exit_status(code, attached, self._host, self.launch.name, tty=tty)

    def run_before(self, command: tuple[str, ...]) -> int:
        """Run another command before the bottle's own, in the same machine."""
        launch = self.launch.for_command(command)
        return Bottle(launch, self._host, self._proof, self._progress).run(tty=False)

    def run_after(self, command: tuple[str, ...]) -> Completed:
        """Run another command when the bottle's own has exited, in the same machine."""
        args, env = _command(replace(self.launch.for_command(command), workdir="/"), tty=False)
        return self._host.call(args, timeout=_AFTER, check=False, env=env)

    def execute(self, command: tuple[str, ...], *, user: str = "", check: bool = False) -> Completed:
        """Run another command in the bottle and return its result (11 MiB a stream at most)."""
        args = exec_argv(self.launch.name, command, tty=False, user=user, workdir="/", env_names=())
        return self._host.call(args, timeout=_QUICK, check=check)

    def _pass_on(self, signum: int, attached: Attached) -> None:
        """Send a signal to all processes in the bottle, as a terminal does to its foreground group.

        smolvm cannot signal a command, so a shell in the guest does it; a bottle without one is stopped.
        """
        name = signal.Signals(signum).name.removeprefix("SIG")
        done = self.execute(("sh", "-c", f"kill -{name} -1"), user="0")
        if done.code == 255 and attached.wait(0) is None:
            self._progress.note(f"cannot forward {name} (the image has no shell); stopping the bottle")
            attached.end()
            raise Interrupted(signum)


def _command(
    launch: BottleConfig, *, tty: bool, secrets: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return smolvm's arguments for a bottle's command, and the environment with its variables.

    `secrets` are the paths from which smolvm reads those.
    """
    variables = launch.variables(tty=tty)
    args = exec_argv(
        launch.name,
        (*launch.before, *launch.command),
        tty=tty,
        user=launch.user,
        workdir=launch.workdir,
        env_names=list(variables),
        secrets=secrets,
    )
    return args, {carrier_variable(name): value for name, value in variables.items()}


def execute(launch: BottleConfig, progress: Progress, *, tty: bool) -> int:
    """Run another command in a bottle of another process, on KVM, and return its exit status."""
    args, env = _command(launch, tty=tty)
    host = NativeHost(find_smolvm(progress))
    with host.attach(args, tty=tty, env=env) as attached:
        code = attached.wait()
    return exit_status(-1 if code is None else code, attached, host, launch.name, tty=tty)


@contextmanager
def launch(
    launch: BottleConfig,
    artifact: Path,
    run: RunDir,
    record: EgressFiles,
    progress: Progress,
    *,
    accel: Accel = "auto",
) -> Iterator[Bottle]:
    """Boot a bottle from an artifact; however the block ends, nothing of it remains.

    Its network isolation is checked before the block begins; `record` is where refused connections are
    logged.
    """
    credentials, launch = with_placeholders(replace(launch, ports=allocate_host_ports(launch.ports)))
    store = CredentialStore(credentials, run.path / BUNDLE)
    nested = choose_accel(accel, probe_kvm()) == "nested"
    with ExitStack() as stack:
        with progress.timed("network"):
            net = stack.enter_context(network(launch, record, run, store, progress, nested=nested))
        host = _host(launch, artifact, run, progress, net, stack, nested=nested)
        if store.needs_bundle(launch.egress):
            _wait(net, progress)  # the proxy writes it
        tools = stack.enter_context(machine_tools(store.read_bundle(launch.egress), run, progress))
        with progress.stage("boot") as stage:
            stage.say("unpacking the artifact")
            if isinstance(host, NativeHost):
                with defer_signals():
                    _record(run, launch.name, host.smolvm)
                    if host.smolvm.is_ours:
                        stack.callback(_quietly, host, prune_argv())
                    stack.callback(_quietly, host, delete_argv(launch.name))
            with progress.timed("create"):
                host.call(_creation(launch, artifact, host, tools), timeout=_CREATE)
            stage.say("starting the microVM")
            _wait(net, progress)
            with progress.timed("start"):
                _start(host, launch, net, stage)
            stage.say("checking its network isolation")
            with progress.timed("proof"):
                proof = _prove(launch, host)
            net.check()
            net.forget()
            stage.conclude("microVM is up")
        for port in launch.ports if net.namespace is None else ():  # else the forwarder has printed them
            progress.note(port.describe())
        if net.proxy is not None:
            stack.enter_context(watched(launch, host, net, record))
        stack.enter_context(variables_served(launch.slug, launch.env, run.path))
        yield Bottle(launch, host, proof, progress)


def _wait(net: Network, progress: Progress) -> None:
    with progress.timed("network"):
        net.wait()


def _prove(launch: BottleConfig, host: Host) -> Proof:
    names = [each.partition(":")[0] for each in launch.services]
    names += [HOST] if launch.egress.host_ports else []
    return proving.prove(launch.name, launch.egress, host, published=bool(launch.ports), services=names)


def _creation(launch: BottleConfig, artifact: Path, host: Host, tools: Path) -> tuple[str, ...]:
    mount = launch.workspace
    published = [f"{host.port_of(port.host)}:{port.guest}" for port in launch.ports]
    return create_argv(
        host.path_of(artifact),
        launch.name,
        cpus=launch.cpus if host.kind == "kvm" else 1,  # more do not start reliably in emulation
        memory_mib=launch.memory_mib,
        storage_mib=launch.storage_mib,
        labels={"bot-bottle": launch.slug, "owner": process_identity()},
        volumes=[
            f"{host.tools(tools)}:{TOOLKIT}:ro",
            *([f"{host.folder(mount.source)}:{mount.target}"] if mount else []),
        ],
        network=[*network_argv(launch.egress), *(word for each in published for word in ("-p", each))],
    )


def _host(
    launch: BottleConfig,
    artifact: Path,
    run: RunDir,
    progress: Progress,
    net: Network,
    stack: ExitStack,
    *,
    nested: bool,
) -> Host:
    mount, prefix = launch.workspace, _owner_prefix(launch, artifact)
    if not nested:
        check_landlock()
        return NativeHost(find_smolvm(progress), prefix, run.path)
    shared = mount.source if mount else None
    return stack.enter_context(
        emulated_host(
            run,
            progress,
            memory_mib=launch.memory_mib,
            exchange=shared,
            network=not launch.egress.closed and net.namespace is None,
            namespace=net.namespace,
            published=[port.host for port in launch.ports],
            prefix=prefix,
        )
    )


def _owner_prefix(launch: BottleConfig, artifact: Path) -> tuple[str, ...]:
    """Return the prefix that maps the workspace's files to the bottle's user, whatever user we are."""
    mount = launch.workspace
    if mount is None:
        return ()
    user = launch.user or artifact_format.read(artifact).manifest.user or ""
    return as_user(*of_artifact(artifact, user), [mount.source / name for name in mount.kept])


def _start(host: Host, launch: BottleConfig, net: Network, stage: Stage) -> None:
    """Start the machine; try again if it did not start in emulation, or where its guest exited by itself.

    smolvm gives up a boot without progress for 30 s, whatever its limit, and an emulated guest shares the
    machine with all that runs on it. It is rare: with a load of ten on two cores, six starts of six
    succeeded, the slowest in 42 s. On a KVM that is itself virtual, a guest now and then exits at once.
    """
    for attempt in (1, 2):
        try:
            host.start(launch.name, timeout=_BOOT, env=net.env, interceptor=net.address)
            return
        except SmolvmError as error:
            if attempt == 2 or (host.kind == "kvm" and GUEST_ENDED not in error.why):
                raise BootError(
                    "the microVM did not start", why=error.why, next_step=_boot_hint(host)
                ) from error
            stage.say("starting the microVM again")
            with suppress(BottleError):
                host.call(("machine", "stop", "--name", launch.name, "-t", "0"), timeout=_QUICK)


def _boot_hint(host: Host) -> str:
    if host.kind == "kvm":
        return "see `bottle doctor`; use --accel direct if KVM does not work"
    return "try again when the machine is less busy, or with another --memory"


def _record(run: RunDir, machine: str, smolvm: Smolvm) -> None:
    run.record("machine", name=machine, program=str(smolvm.program), env=dict(smolvm.env))


def _quietly(host: Host, args: tuple[str, ...]) -> None:
    with defer_signals(), suppress(BottleError):
        host.call(args, timeout=_QUICK)


def sweep_machine(stray: dict[str, Any]) -> None:
    """Delete a machine that a killed command left (the sweeper of `machine`)."""
    smolvm = Smolvm(Path(stray["program"]), "", "", dict(stray["env"]))
    done = NativeHost(smolvm).call(delete_argv(stray["name"]), timeout=_QUICK, check=False)
    if done.code and b"NOT_FOUND" not in done.stderr:
        raise SmolvmError(f"the machine {stray['name']} could not be deleted")


_QUICK = 60.0  # seconds

# smolvm returns 255 for a command that cannot be started; docker returns 126 and 127
_NOT_FOUND = re.compile(r"executable file .* not found|No such file or directory\Z")
_NO_USER = re.compile(r"(user|group) '.*' not found in container rootfs")
_NOT_RUNNABLE = re.compile(r"Operation not permitted|Permission denied|not executable")


def exit_status(code: int, attached: Attached, host: Host, machine: str, *, tty: bool) -> int:
    """Return a command's exit status as docker does. Raises SmolvmError when smolvm itself failed.

    On a terminal smolvm prints its error itself, and its status 1 may also be the command's.
    """
    gone = any(words in attached.failure for words in GUEST_GONE)
    if gone or (tty and code == 1 and _has_ended(host, machine)):
        ended = "the microVM ended before its command did"
        raise SmolvmError(ended, why=attached.failure, next_step=_end_hint(host))
    if attached.failure:
        step = UNKNOWN_USER if _NO_USER.search(attached.failure) else ""
        raise SmolvmError("smolvm could not run the command", why=attached.failure, next_step=step)
    if code == 255 and _NOT_FOUND.search(attached.last_line):
        return 127
    if code == 255 and _NOT_RUNNABLE.search(attached.last_line):
        return 126
    return code


def _has_ended(host: Host, machine: str) -> bool:
    with suppress(SmolvmError, ValueError, TypeError, KeyError):
        done = host.call(status_argv(machine), timeout=_QUICK, check=False)
        return bool(json.loads(done.stdout)["state"] != "running")
    return False


def _end_hint(host: Host) -> str:
    if host.kind == "kvm":
        return "if dmesg shows that it was killed for lack of memory, use a smaller --memory"
    return "run it again: in emulation, a guest now and then exits by itself"
