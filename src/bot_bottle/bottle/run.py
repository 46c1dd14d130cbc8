"""The run of a bottle: a plan is made of a spec, and a running bottle of a plan.

`prepare` changes nothing outside the caches; `launch` leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.backend.base import Boot, BottleConfig, OnProved, RunningBottle, default_path
from bot_bottle.backend.choice import backend_for
from bot_bottle.bottle import names
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.records import RunRecord, recorded
from bot_bottle.bottle.spec import DEFAULT_CPUS, BottleSpec
from bot_bottle.bottle.unreachable import unreachable_told
from bot_bottle.errors import SpecError
from bot_bottle.git.spec import GitPush
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import Secret, redacted_document
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import Proof
from bot_bottle.network.usage import describe
from bot_bottle.pack.converter import Conversion, Converter
from bot_bottle.pack.options import ConvertOptions, PackerName
from bot_bottle.secrets.credential import Credential
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.structs import replace
from bot_bottle.vm.accel import Accel
from bot_bottle.workspace.open import based_on, check_workspace, opened
from bot_bottle.workspace.spec import PLACE, Request

if TYPE_CHECKING:  # loaded for what a bottle has of it
    from bot_bottle.bottle.agent_state import StateTransfer


class Plan(Struct, frozen=True):
    """What will run. Nothing has been started.

    `command` and the variables in `env` are those of the spec, for a microVM with those of its image; empty:
    as in the image. `conversion` is the artifact that a microVM boots; a container is only built by launch.
    """

    spec: BottleSpec
    command: tuple[str, ...]
    env: Mapping[str, str]
    workdir: str
    cpus: int
    conversion: Conversion | None

    def described(self) -> dict[str, Any]:
        """Return the plan as a JSON document. It has the names of variables only: values may be secrets."""
        made, spec = self.conversion, self.spec
        document = {
            "name": spec.slug,
            "backend": spec.backend,
            "source": str(spec.source),
            "image_id": made.image_id if made else None,
            "artifact": str(made.entry.path) if made else None,
            "digest": str(made.entry.digest) if made else None,
            "command": list(self.command),
            "before_command": _shown_start(spec),
            "user": spec.user,
            "workdir": self.workdir,
            "env": sorted(self.env),
            "secrets": [each.described() for each in spec.secrets],
            "cpus": self.cpus,
            "memory_mib": spec.memory_mib,
            "limits": spec.limits.described(),
            "storage_mib": spec.storage_mib,
            "network": _network(spec.egress, spec.git),
            "ports": [str(port) for port in spec.ports],
            "egress": spec.egress.described(),
            "git": spec.git.described(),
            "ask": spec.ask,
            "workspace": spec.workspace.mode,
            "mounts": _mounts(spec.workspace),
        }
        # a command line may contain the value of a secret
        shown: dict[str, Any] = redacted_document(document)
        return shown


def _shown_start(spec: BottleSpec) -> dict[str, Any]:
    if not spec.start:
        return {}
    from bot_bottle.workspace.lifecycle import shown

    return {key: shown(each) for key, each in spec.start.items()}


def _before(spec: BottleSpec) -> tuple[str, ...]:
    """Return what runs the commands that come before the bottle's, put before its arguments."""
    if not spec.start:
        return ()
    from bot_bottle.workspace.lifecycle import before_command

    return before_command(spec.start)


def _network(egress: Policy, push: GitPush) -> str:
    closed = "git remotes" if push.remotes else "none"
    return "open" if egress.open else closed if egress.closed else "allowed hosts"


def _mounts(request: Request) -> list[str]:
    """Return which of this machine's folders a bottle will write to, and their paths in it."""
    if request.mode == "none":
        return []
    source = f"{request.top}" if request.mode == "mount" else f"a clone of {request.top}"
    return [f"{source}:{PLACE}"]


def prepare(spec: BottleSpec, converter: Converter) -> Plan:
    """Return what will run; for a microVM, build the image and make or find its artifact."""
    backend = backend_for(spec.backend, spec.accel)
    check_workspace(spec.workspace, spec.slug)  # before a build that may take long
    if spec.source.build is not None:
        spec.source.build.find_dockerfile()
    own = backend.variables(spec.network)
    env = {**own, **dict(spec.env)}
    if spec.git.remotes:
        from bot_bottle.git.remotes import variables

        env |= variables(spec.git.remotes, own.get("http_proxy", ""), env)
    command, conversion = spec.command, None
    workdir = spec.workdir or ("" if spec.workspace.mode == "none" else PLACE)
    if backend.boots_artifact:
        conversion = converter.convert(spec.source)
        with conversion.entry.hold():
            image = artifact_format.read(conversion.entry.path).manifest
        command = command or (*image.entrypoint, *image.cmd)
        if not command:
            raise SpecError("the image has no default command", next_step="give one: bottle run . -- COMMAND")
        image_env = dict(item.partition("=")[::2] for item in image.env)
        env = {**default_path({**image_env, **env}), **env}
        workdir = workdir or image.workdir or "/"
    cpus = spec.cpus or min(DEFAULT_CPUS, os.cpu_count() or 1)
    return Plan(spec, command, env, workdir, cpus, conversion)


def plan(
    spec: BottleSpec,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    max_image_size: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Return what `run` would start. Nothing is started, and nothing changed but the caches."""
    options = ConvertOptions(engine=engine, packer=packer, max_image_size=max_image_size)
    return make_plan(spec, options, progress or Progress())


def make_plan(spec: BottleSpec, options: ConvertOptions, progress: Progress) -> Plan:
    """Return what `run_bottle` would start. Nothing is started, and nothing changed but the caches."""
    with run_context() as folder:
        return prepare(spec, Converter(folder, progress, options))


@contextmanager
def launch(
    plan: Plan,
    converter: Converter,
    run: RunDir,
    progress: Progress,
    *,
    receipt: RunRecord | None = None,
    secrets: Mapping[str, Secret] | None = None,
    state: StateTransfer | None = None,
) -> Iterator[RunningBottle]:
    """Start a plan's bottle; however the block ends, nothing of it remains.

    The caller has locked its name. `image_id` and `git` are added to `receipt`. `secrets` are already
    resolved values; resolving twice may prompt the user twice. `state` is that of its agent, if it has one.
    """
    spec = plan.spec
    if spec.egress.open:
        progress.warn("the network is unrestricted: this bottle can reach everything that this machine can")
    values = _resolved(spec, progress) if secrets is None else secrets
    record = RunRecord(spec.slug, path=run.path / "receipt") if receipt is None else receipt
    record.image_id = plan.conversion.image_id if plan.conversion else converter.image_id(spec.source)
    user = spec.user or (converter.remote_user(record.image_id) if spec.remote_user else "")
    record.plan = {**(record.plan or {}), "user": user}
    record.git = based_on(spec.workspace)
    with ExitStack() as stack:
        config = BottleConfig(
            slug=spec.slug,
            command=plan.command,
            env=plan.env,
            user=user,
            workdir=plan.workdir,
            cpus=plan.cpus,
            memory_mib=spec.memory_mib,
            storage_mib=spec.storage_mib,
            workspace=(mount := stack.enter_context(opened(spec.workspace, spec.slug, progress, record.git))),
            egress=spec.network,
            services=_services(spec, run, progress, record.git, stack),
            ports=spec.ports,
            secrets={each.name: values[each.name] for each in spec.secrets if not each.hosts},
            credentials=_credentials(spec, values, progress),
            before=(
                *(stack.enter_context(state.placed(mount)) if state else ()),
                *_before(spec),
            ),
            timeout=spec.limits.timeout,
        )
        boot = Boot(record.image_id, _artifact(plan, stack), lambda: converter.engine)
        backend = backend_for(spec.backend, spec.accel)
        started = backend.start(config, boot, _files(spec, record), run, progress, spec.accel)
        yield stack.enter_context(started)


def _services(
    spec: BottleSpec, run: RunDir, progress: Progress, facts: dict[str, Any], stack: ExitStack
) -> Mapping[str, str]:
    """Return the services of the remotes, if there are any, which end with the stack; see `services`."""
    if not spec.git.remotes:
        return {}
    from bot_bottle.git.server_process import services

    return stack.enter_context(services(spec.git, spec.slug, run, progress, facts))


def _artifact(plan: Plan, stack: ExitStack) -> Path | None:
    """Return the artifact that a microVM boots, which stays in the cache until the stack is closed."""
    if plan.conversion is None:
        return None
    stack.enter_context(plan.conversion.entry.hold())
    return plan.conversion.entry.path


def _files(spec: BottleSpec, record: RunRecord) -> EgressFiles:
    ask = record.ask if spec.ask else None
    return EgressFiles(record.log, record.policy, ask, record.usage_file, spec.limits.budget)


def _resolved(spec: BottleSpec, progress: Progress) -> dict[str, Secret]:
    """Return the values of the secrets, by name. Raises SecretError, SpecError."""
    if not spec.secrets:
        return {}
    from bot_bottle.login.values import resolve

    return resolve(spec.secrets, progress.warn)


def _state(spec: BottleSpec, progress: Progress) -> StateTransfer | None:
    """Return the transfer of the agent's state, if there is one."""
    if spec.state is None:
        return None
    from bot_bottle.bottle.agent_state import StateTransfer

    return StateTransfer(spec.state, progress)


def _credentials(spec: BottleSpec, values: Mapping[str, Secret], progress: Progress) -> dict[str, Credential]:
    """Return the secrets that only the proxy has, by name."""
    if not any(each.hosts for each in spec.secrets):
        return {}
    from bot_bottle.login.values import renewal_of

    return {
        each.name: Credential(
            values[each.name], each.hosts, each.body, renewal_of(each, values[each.name], progress.warn)
        )
        for each in spec.secrets
        if each.hosts
    }


def run(
    spec: BottleSpec,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    accel: Accel | None = None,
    max_image_size: int | None = None,
    progress: Progress | None = None,
    tty: bool = False,
    on_begin: Callable[[], None] = lambda: None,
    attend: Callable[[RunningBottle, OnProved], int] | None = None,
) -> int:
    """Run a spec's command in a microVM on our own streams and return its exit status.

    `accel`, if given, replaces that of the spec. `on_begin` is called right before the command starts;
    `attend` replaces the default way to run the command, and returns its status. Raises the BottleError of
    the stage that failed, Interrupted after a second Ctrl-C.
    """
    spec = spec if accel is None else replace(spec, accel=accel)
    options = ConvertOptions(engine=engine, packer=packer, accel=spec.accel, max_image_size=max_image_size)
    return run_bottle(spec, options, progress or Progress(), tty=tty, on_ready=on_begin, run_command=attend)


def run_bottle(
    spec: BottleSpec,
    options: ConvertOptions,
    progress: Progress,
    *,
    tty: bool = False,
    on_ready: Callable[[], None] = lambda: None,
    run_command: Callable[[RunningBottle, OnProved], int] | None = None,
) -> int:
    """Run a spec's command and return its exit status.

    `on_ready` is called when the network has been checked from inside, right before the command starts.
    `run_command` replaces the default way to run the command. Raises as `run` does.
    """
    with ExitStack() as stack:
        stack.enter_context(names.lock_name(spec.slug))
        record = stack.enter_context(recorded(spec.slug, progress))
        folder = stack.enter_context(run_context())
        converter = Converter(folder, progress, options)
        values = _resolved(spec, progress)  # a missing secret is reported before anything is built
        with progress.timed("prepare"):
            plan = prepare(spec, converter)
        record.plan = plan.described()
        state = _state(spec, progress)
        started = launch(plan, converter, folder, progress, receipt=record, secrets=values, state=state)
        with started as bottle:
            record.versions.update(converter.versions())
            record.place, record.engine = bottle.place, converter.engine_name
            record.save()

            with _usage_said(record, progress), ExitStack() as proved, progress.timed("command"):

                def on_proved(proof: Proof) -> None:
                    record.proof = proof.described()
                    record.save()
                    proof.require()
                    # from now on, as the probes ask for hosts too
                    proved.enter_context(_hosts_watched(spec, record, progress, tty=tty))
                    on_ready()

                if run_command is not None:
                    record.exit_status = run_command(bottle, on_proved)
                else:
                    record.exit_status = bottle.run(tty=tty, on_proved=on_proved)
            if state is not None:
                state.pack(bottle)
        return record.exit_status


def _hosts_watched(
    spec: BottleSpec, record: RunRecord, progress: Progress, *, tty: bool
) -> AbstractContextManager[None]:
    """Watch whether the hosts that the bottle's credentials are for can be reached."""
    hosts = {host for secret in spec.secrets for host in secret.hosts}
    # the terminal may be in the command's hands, which then ends no line by itself
    return unreachable_told(record.log, hosts, lambda text: progress.warn(f"{text}\r" if tty else text))


@contextmanager
def _usage_said(record: RunRecord, progress: Progress) -> Iterator[None]:
    """Say when the block ends what was used with the bottle's credentials, and whether that was all."""
    try:
        yield
    finally:
        record.take_usage()
        if record.usage and record.usage["requests"]:
            progress.note(f"{'usage':<8} {describe(record.usage)}")
        if record.usage and record.usage["refused"]:
            spent = f"the bottle's budget of {record.usage['refused']} is used up"
            progress.warn(f"{spent}: further requests were refused")
