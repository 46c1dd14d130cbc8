"""The pipeline: a spec becomes a plan that can be shown, a plan becomes a running bottle.

`prepare` touches nothing outside the caches; `launch` leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bot_bottle.backend.base import Begin, Launch, Running, default_path
from bot_bottle.backend.container import bottle as docker
from bot_bottle.backend.microvm import bottle as smolmachines
from bot_bottle.bottle import names
from bot_bottle.bottle import records as receipts
from bot_bottle.bottle.gc import working
from bot_bottle.bottle.records import Receipt
from bot_bottle.bottle.spec import DEFAULT_CPUS, BottleSpec
from bot_bottle.engine.source import PackerName
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import Credential, Secret, redacted_document
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import Proof
from bot_bottle.network.proxy_process import VARIABLES, Record
from bot_bottle.pack.converter import Conversion, Converter
from bot_bottle.secrets.reference import resolve
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.vm.host import Accel
from bot_bottle.workspace.open import based_on, opened
from bot_bottle.workspace.spec import PLACE, Request


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bottle will be. Nothing has been started.

    `conversion` is the artifact that a microVM boots; for a container the build waits for launch.
    """

    spec: BottleSpec
    launch: Launch
    conversion: Conversion | None

    def described(self) -> dict[str, Any]:
        """Give the plan as a JSON document. Of variables it has the names alone: values may be secrets."""
        made = self.conversion
        document = {
            "name": self.spec.slug,
            "backend": self.spec.backend,
            "source": str(self.spec.source),
            "image_id": made.image_id if made else None,
            "artifact": str(made.entry.path) if made else None,
            "digest": str(made.entry.digest) if made else None,
            "command": list(self.launch.command),
            "user": self.launch.user,
            "workdir": self.launch.workdir,
            "env": sorted(self.launch.env),
            "secrets": [each.described() for each in self.spec.secrets],
            "cpus": self.launch.cpus,
            "memory_mib": self.launch.memory_mib,
            "network": _network(self.launch.egress),
            "ports": [str(port) for port in self.launch.ports],
            "egress": self.launch.egress.described(),
            "workspace": self.spec.workspace.mode,
            "mounts": _mounts(self.spec.workspace),
        }
        # a command line may hold what is known as a secret
        shown: dict[str, Any] = redacted_document(document)
        return shown


def _network(egress: Policy) -> str:
    return "open" if egress.open else "none" if egress.closed else "allowed hosts"


def _mounts(request: Request) -> list[str]:
    """Say which of this machine's folders a bottle will write to, and where it sees them."""
    if request.mode == "none":
        return []
    source = f"{request.top}" if request.mode == "mount" else f"a clone of {request.top}"
    return [f"{source}:{PLACE}"]


def prepare(spec: BottleSpec, converter: Converter) -> Plan:
    """Settle what will run; for a microVM, build the image and make or find its artifact."""
    if spec.backend == "docker":
        return Plan(spec, _launch(spec), None)
    conversion = converter.convert(spec.source)
    manifest = artifact_format.read(conversion.entry.path).manifest
    command = spec.command or (*manifest.entrypoint, *manifest.cmd)
    if not command:
        raise SpecError("the image names no command", next_step="give one: bottle run . -- COMMAND")
    image_env = dict(item.partition("=")[::2] for item in manifest.env)
    launch = _launch(spec)
    launch = replace(
        launch,
        command=command,
        env={**default_path({**image_env, **dict(spec.env)}), **dict(spec.env)},
        workdir=launch.workdir or manifest.workdir or "/",
    )
    return Plan(spec, launch, conversion)


def plan(
    spec: BottleSpec,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    max_image_size: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Give what `run` would start. Nothing is started, and nothing touched but the caches."""
    with working() as folder:
        converter = Converter(
            folder, progress or Progress(), engine=engine, packer=packer, max_image_size=max_image_size
        )
        return prepare(spec, converter)


def _launch(spec: BottleSpec) -> Launch:
    through_proxy = spec.backend == "docker" and not (spec.egress.closed or spec.egress.open)
    return Launch(
        slug=spec.slug,
        command=spec.command,
        env={**(VARIABLES if through_proxy else {}), **dict(spec.env)},
        user=spec.user,
        workdir=spec.workdir or ("" if spec.workspace.mode == "none" else PLACE),
        cpus=spec.cpus or min(DEFAULT_CPUS, os.cpu_count() or 1),
        memory_mib=spec.memory_mib,
        egress=spec.egress,
        ports=spec.ports,
    )


@contextmanager
def launch(
    plan: Plan,
    converter: Converter,
    run: RunDir,
    progress: Progress,
    *,
    accel: Accel = "auto",
    receipt: Receipt | None = None,
    secrets: Mapping[str, Secret] | None = None,
) -> Iterator[Running]:
    """Start a plan's bottle; when the block ends, by any way, the bottle is gone.

    Its name is the caller's to hold. What is known by then goes into `receipt`: `image_id` and `git`.
    `secrets` are the values of the spec's, if they have been read: a keychain may ask its owner each time.
    """
    if plan.spec.egress.open:
        progress.warn("egress is open: this bottle can reach everything that this machine can")
    values = resolve(plan.spec.secrets) if secrets is None else secrets
    hosts = {each.name: each.hosts for each in plan.spec.secrets if each.hosts}
    with ExitStack() as stack:
        image = plan.conversion.image_id if plan.conversion else converter.image_id(plan.spec.source)
        git = based_on(plan.spec.workspace)
        if receipt is not None:
            receipt.update(image_id=image, git=git)
        mount = stack.enter_context(opened(plan.spec.workspace, plan.spec.slug, progress, git))
        launch = replace(
            plan.launch,
            workspace=mount,
            secrets={name: value for name, value in values.items() if name not in hosts},
            credentials={name: Credential(values[name], hosts[name]) for name in hosts},
        )
        own = receipt.path if receipt is not None else run.path / "receipt"
        record = Record(receipts.refusals_of(own), receipts.policy_of(own))
        if plan.conversion is None:
            bottle = docker.launch(launch, image, converter.engine, run, record, progress)
            yield stack.enter_context(bottle)
        else:
            entry = plan.conversion.entry
            stack.enter_context(entry.hold())
            running = smolmachines.launch(launch, entry.path, run, record, progress, accel=accel)
            yield stack.enter_context(running)


def run(
    spec: BottleSpec,
    *,
    engine: str | None = None,
    packer: PackerName = "native",
    accel: Accel = "auto",
    max_image_size: int | None = None,
    progress: Progress | None = None,
    tty: bool = False,
    on_begin: Callable[[], None] = lambda: None,
    attend: Callable[[Running, Begin], int] | None = None,
) -> int:
    """Run a spec's command in a microVM on our own streams and give its exit status.

    `on_begin` is called when everything is ready for the command; `attend` runs it in another way, and gives
    its status. Raises the BottleError of the stage that failed, Interrupted after a second Ctrl-C.
    """
    progress = progress or Progress()
    with ExitStack() as stack:
        stack.enter_context(names.taken(spec.slug))
        receipt = stack.enter_context(receipts.recorded(spec.slug, progress))
        folder = stack.enter_context(working())
        converter = Converter(
            folder, progress, engine=engine, packer=packer, accel=accel, max_image_size=max_image_size
        )
        values = resolve(spec.secrets)  # what is not there is told before anything is built
        plan = prepare(spec, converter)
        receipt["plan"] = plan.described()
        ready = launch(plan, converter, folder, progress, accel=accel, receipt=receipt, secrets=values)
        with ready as bottle:
            receipt["versions"].update(converter.versions())
            receipt["place"] = bottle.place
            receipt.save()

            def begin(proof: Proof) -> None:
                receipt["proof"] = proof.described()
                receipt.save()
                proof.require()
                on_begin()

            with progress.timed("command"):
                status = attend(bottle, begin) if attend else bottle.run(tty=tty, begin=begin)
                receipt["exit_status"] = status
        return status
