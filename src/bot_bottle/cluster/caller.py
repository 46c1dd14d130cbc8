"""A fan on a cluster as its caller sees it: started, followed, its work brought back, removed."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.backend.choice import backend_for
from bot_bottle.bottle import names
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.replicas import Result
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cluster.access import no_token, protections
from bot_bottle.cluster.address import Address
from bot_bottle.cluster.following import Target, follow
from bot_bottle.cluster.order import Artifact, FileName, Order, Values
from bot_bottle.cluster.pieces import Readable, read_pieces
from bot_bottle.cluster.resources import Needs, needs_of
from bot_bottle.cluster.seal import seal
from bot_bottle.cluster.session import Session, connecting
from bot_bottle.engine.push_names import named_for_push
from bot_bottle.engine.source import Source
from bot_bottle.errors import ClusterError, UsageError
from bot_bottle.host.progress import Progress, human_count
from bot_bottle.host.rundir import RunDir
from bot_bottle.login.values import resolve
from bot_bottle.pack.converter import Converter
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.structs import replace
from bot_bottle.version import VERSION
from bot_bottle.workspace.bundle import MOST_WORK, Origin, check_new, write_repository
from bot_bottle.workspace.open import check_workspace
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.spec import Request

MOST = 1000

Supply = Callable[[FileName], None]
OnEnd = Callable[[Result], None]


class Choices(Struct, frozen=True):
    """How a fan runs on a cluster. `retries` is for each bottle, after its node has died.

    `most_work` are the bytes of a bottle's work that are taken back at most.
    """

    retries: int = 2
    send_secrets: bool = False
    most_work: int = MOST_WORK


def fan(
    address: Address,
    spec: BottleSpec,
    count: int,
    progress: Progress,
    on_end: OnEnd,
    options: ConvertOptions,
    choices: Choices,
) -> list[Result]:
    """Run `count` bottles of a spec on a cluster and wait for all of them, as `replicas.fan` does here.

    Raises ClusterError, SpecError, UsageError.
    """
    all_names = [f"{spec.slug}-{number}" for number in range(1, count + 1)]
    _check_spec(spec, all_names)
    with connecting(address) as connection, run_context() as run:
        files = CallersFiles(run, spec, progress, options, choices.most_work)
        written = files.write()
        session = files.session = connection()
        needs = needs_of(spec, [node["Resources"] for node in session.nodes()])
        order = files.order(written)
        actor = files.actor = _actor(session, spec.slug, all_names, order)
        try:
            _start_workers(session, spec, count, needs)
            about = session.get(actor.about.remote())
            _check(session, about, spec, choices)
            values = _values(spec, choices, progress)
            sealed = seal(values, about.key) if values.env or values.secrets else b""
            files.supply("repository")
            session.get(actor.start.remote(needs, choices.retries, sealed))
        except BaseException:
            session.ray.kill(actor)
            raise
        progress.note(f"{'start':<8} {human_count(count, 'bottle')} on {session.address}, as {spec.slug}")
        scratch = run.folder("work")
        target = Target(order.origin, scratch, spec.state)
        return follow(session, actor, all_names, target, progress, on_end, files.supply)


def _check_spec(spec: BottleSpec, all_names: list[str]) -> None:
    """Refuse what a bottle on another machine cannot have, and names that are in use."""
    if not 1 <= len(all_names) <= MOST:
        raise UsageError(f"N must be 1 to {MOST}, not {len(all_names)}")
    here = {
        "--git-push": bool(spec.git.remotes),
        "--publish": bool(spec.ports),
        "--allow-host-port": bool(spec.egress.host_ports),
    }
    if used := [option for option, is_used in here.items() if is_used]:
        raise UsageError(
            f"{used[0]} does not work with --on",
            why="it is about this machine, and the bottles are on others",
            next_step=f"drop {used[0]}",
        )
    for name in all_names:
        with names.lock_name(name):
            pass
    check_workspace(spec.workspace, *all_names)
    check_new(open_repository(spec.workspace.project), all_names)


def _actor(session: Session, name: str, all_names: list[str], order: Order) -> Any:
    """Make the actor of a fan. Raises ClusterError."""
    from bot_bottle.cluster.fan import Fan

    options = {
        "name": name,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": 0,
        "resources": {"node:__internal_head__": 0.001},
    }
    try:
        return session.ray.remote(Fan).options(**options).remote(all_names, order.packed(), order.fan)
    except ValueError as error:
        raise ClusterError(
            f"a fan named {name} is on the cluster already",
            next_step=f"give another --name, or bottle stop --on {session.address} {name}",
        ) from error


def _start_workers(session: Session, spec: BottleSpec, count: int, needs: Needs) -> None:
    """Ask Ray for the processes of the first bottles while that of the fan starts.

    There are no more than there is room for now. Ray ends those that are not used.
    """
    from bot_bottle.cluster.fan import load_on_node

    room = needs.count(session.ray.available_resources())
    options = {"num_cpus": 0, "resources": {needs.resource: 0.001}, "scheduling_strategy": "SPREAD"}
    task = session.ray.remote(load_on_node).options(max_retries=0, **options)
    for _ in range(min(count, room)):
        task.remote(spec.backend, spec.accel)


def _check(session: Session, about: Any, spec: BottleSpec, choices: Choices) -> None:
    """Check what the head says of itself. Raises ClusterError."""
    if "token" not in about.protected and not session.is_local:
        raise no_token(session.address)
    tls = "tls" in about.protected and "tls" in protections()
    if choices.send_secrets and spec.secrets and not (tls or session.is_local):
        raise ClusterError(
            "--send-secrets needs a cluster with TLS, or one on this machine",
            why=f"what goes to {session.address} is not encrypted by Ray",
            next_step="set up TLS (RAY_USE_TLS=1), or let the nodes look the secrets up",
        )
    if about.version != VERSION:
        raise ClusterError(
            f"the cluster has bottle {about.version}, and this machine {VERSION}",
            next_step="install the same version on both",
        )


def _values(spec: BottleSpec, choices: Choices, progress: Progress) -> Values:
    """Return the values that are sent: those of variables, and of secrets if that was asked for.

    A login is always the node's own, where it can be refreshed.
    """
    sent = [each for each in spec.secrets if choices.send_secrets and each.kind != "login"]
    found = resolve(sent, progress.warn)
    return Values(dict(spec.env), {name: secret.reveal() for name, secret in found.items()})


class Written(Struct, frozen=True):
    """What is in the folder of the run: the bundle of a repository, and whether there is an agent's state."""

    origin: Origin
    has_state: bool


class CallersFiles:
    """What the nodes may ask the caller for."""

    def __init__(
        self,
        run: RunDir,
        spec: BottleSpec,
        progress: Progress,
        options: ConvertOptions,
        most_work: int,
    ) -> None:
        self._run = run
        self._spec = spec
        self._progress = progress
        self._most_work = most_work
        self._converter = Converter(run, progress, options)
        self._order: Order | None = None
        self._artifact = Path()
        self.session: Session | None = None
        self.actor: Any = None

    def write(self) -> Written:
        """Make the bundle of the repository, and what else needs neither a cluster nor long."""
        spec, request = self._spec, self._spec.workspace
        if spec.source.archive is None:
            _ = self._converter.engine  # is found, so that it need not be later
        with self._progress.stage("bundle"):
            origin = write_repository(
                request.project,
                self._run.folder("bundle"),
                self._run.path / "repository.bundle",
                include_dirty=request.include_dirty,
            )
        has_state = False
        if spec.state:
            with (self._run.path / "state.tar").open("xb") as file:
                has_state = bool(spec.state.copy_to(file))
        return Written(replace(origin, most=self._most_work), has_state)

    def order(self, written: Written) -> Order:
        """Build the image, make its artifact, and return the order, with what is written."""
        spec = self._spec
        image_id = self._converter.image_id(spec.source)
        user = spec.user or (self._converter.remote_user(image_id) if spec.remote_user else "")
        artifact = None
        if backend_for(spec.backend, spec.accel).boots_artifact:
            made = self._converter.convert(spec.source)
            self._artifact = made.entry.path
            artifact = Artifact(made.entry.key, made.entry.digest, made.image_id)
        sent = replace(
            spec,
            source=Source(image=image_id),
            env=(),
            user=user,
            remote_user=False,
            workspace=Request("clone"),
        )
        self._order = Order(
            fan=secrets.token_hex(8),
            version=VERSION,
            spec=sent,
            origin=written.origin,
            image_id="" if artifact else image_id,
            artifact=artifact,
            has_state=written.has_state,
        )
        return self._order

    def supply(self, name: FileName) -> None:
        """Send a file to the cluster."""
        send = partial(self._send, name)
        if name == "image":
            assert self._order is not None  # noqa: S101 - nobody asks before
            engine, image = self._converter.engine, self._order.image
            second = f"{image}-2"
            with (
                named_for_push(engine, self._order.image_id, image, second, self._run),
                self._progress.stage("send") as stage,
            ):
                engine.write_archive(image, lambda stream: send(stream, stage.advance))
                stage.conclude("the image, which a node lacks")
        elif name == "artifact":
            with self._artifact.open("rb") as file, self._progress.stage("send") as stage:
                send(file, stage.advance)
                stage.conclude("the artifact, which a node lacks")
        else:
            file_name = "state.tar" if name == "state" else "repository.bundle"
            with (self._run.path / file_name).open("rb") as file:
                send(file, lambda _: None)

    def _send(self, name: FileName, file: Readable, on_bytes: Callable[[int], None]) -> None:
        assert self.session is not None  # noqa: S101 - nobody asks before
        offset = 0
        for piece in read_pieces(file):
            self.session.get(self.actor.supply.remote(name, offset, piece))
            offset += len(piece.data)
            on_bytes(len(piece.data))
