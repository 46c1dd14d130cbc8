"""What a node does for one bottle: fetch what it lacks, run it in a process of its own, deliver its work."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bot_bottle.backend import BackendName
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.names import is_running
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cluster.files import prepare_artifact, prepare_image, prepare_repository
from bot_bottle.cluster.kept import forget_others
from bot_bottle.cluster.order import GIVEN_STATE, NEW_STATE, FileName, Order, Packed, Values, unpacked
from bot_bottle.cluster.pieces import Piece, read_pieces, receive
from bot_bottle.cluster.seal import Box
from bot_bottle.cluster.starter import BottleProcess, starter
from bot_bottle.cluster.state import Report, Returned
from bot_bottle.errors import BottleError, ClusterError
from bot_bottle.host import paths
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.wait import wait_until
from bot_bottle.structs import replace
from bot_bottle.version import VERSION
from bot_bottle.vm.accel import Accel
from bot_bottle.workspace.bundle import copy_repository, write_work
from bot_bottle.workspace.repository import open_repository

_BEAT = 1.0  # seconds after which the fan is asked whether to go on
_SOON = 0.1  # seconds in which output is collected
_PATIENCE = 10.0  # seconds between the first signal and the second
_ORDERLY = 60.0  # seconds in which a bottle has to clean up
_PART = 64 << 10  # bytes of output that are sent at once


class Link:
    """The fan, as the node calls it.

    Answers are waited for in another thread: a task whose own thread waits counts as using no processor, and
    Ray would start more bottles than there are processors for.
    """

    def __init__(self, ray: Any, fan: Any, name: str, waiting: ThreadPoolExecutor) -> None:
        self._ray = ray
        self._fan = fan
        self._name = name
        self._waiting = waiting

    def _get(self, reference: Any) -> Any:
        return self._waiting.submit(self._ray.get, reference).result()

    def begin(self) -> bool:
        """Say that this node starts the bottle; return whether it may."""
        address = self._ray.util.get_node_ip_address()
        node_id = self._ray.get_runtime_context().get_node_id()
        return bool(self._get(self._fan.begin.remote(self._name, address, node_id)))

    def fans(self) -> list[str]:
        """Return the names of the fans on the cluster."""
        listed = self._waiting.submit(self._ray.util.list_named_actors).result()
        return [str(name) for name in listed]

    def say(self, output: bytes) -> bool:
        """Send output; return whether the bottle may go on. It may not once the fan has ended."""
        try:
            return bool(self._get(self._fan.say.remote(self._name, output)))
        except self._ray.exceptions.RayError:
            return False

    def values(self) -> Values:
        """Return the values for the bottle."""
        if not self._get(self._fan.has_values.remote()):
            return Values({}, {})
        box = Box()
        return box.open(self._get(self._fan.values.remote(box.public)))

    def fetch(self, name: FileName, out: Path, digest: str = "") -> None:
        """Write a file of the caller's, with this SHA-256, to the new file `out`. Raises ClusterError."""
        receive(lambda offset: self._piece(name, offset), out, digest=digest)

    def _piece(self, name: FileName, offset: int) -> Piece:
        piece = self._get(self._fan.piece.remote(name, offset))
        if not isinstance(piece, Piece):
            raise ClusterError(
                f"this node lacks the {name}, and the caller went away before it had sent it",
                next_step="run the fan again, and leave it running until its bottles have started",
            )
        return piece

    def deliver(self, what: Returned, path: Path) -> None:
        """Send what the bottle returns to the fan, where it is safe when this node dies."""
        offset = 0
        with path.open("rb") as file:
            for piece in read_pieces(file):
                self._get(self._fan.deliver.remote(self._name, what, offset, piece))
                offset += len(piece.data)


def run(fan: Any, name: str, packed: Packed) -> tuple[str, Report]:
    """Run a bottle, and return the id of this node and how it has ended."""
    import ray

    node_id = str(ray.get_runtime_context().get_node_id())
    with ThreadPoolExecutor(1) as waiting:
        link = Link(ray, fan, name, waiting)
        if not link.begin():
            return node_id, Report(130, error="it was stopped before it began")
        try:
            order = unpacked(packed)
            if order.version != VERSION:
                raise ClusterError(f"this node has bottle {VERSION}, and the caller {order.version}")
            # where its worker was killed here, the bottle may still be on its way to an orderly end
            wait_until(lambda: not is_running(name), 2 * _PATIENCE + _ORDERLY, pause=0.2)
            forget_others(order, link.fans)
            with run_context() as run:
                return node_id, _run(link, run, name, order)
        except BottleError as error:
            return node_id, Report(error.exit_code, error=str(error), refused=True)


def load(backend: BackendName, accel: Accel) -> None:
    """Prepare this worker for bottles of this kind."""
    starter(backend, accel)


def _run(link: Link, run: RunDir, name: str, order: Order) -> Report:
    load(order.spec.backend, order.spec.accel)  # the program is loaded meanwhile
    if order.image_id:
        order = prepare_image(order, run, link.fetch)
    if order.artifact is not None:
        prepare_artifact(order.artifact, link.fetch)
    project = run.path / "repository"
    copy_repository(prepare_repository(order, run, link.fetch), project)
    state = _state_folder(run)
    if order.has_state:
        link.fetch("state", state / GIVEN_STATE)
    order = replace(order, spec=_spec_here(order.spec, name, project))
    with starter(order.spec.backend, order.spec.accel).started(order, link.values(), state) as child:
        document = _attend(link, child)
    report = _report(child, document)
    out = run.path / "work.bundle"
    if report.refused:
        return report
    if (kept := state / NEW_STATE).exists():
        link.deliver("state", kept)
        report = replace(report, has_state=True)
    try:
        tips = write_work(open_repository(project), name, out, order.origin.most)
    except BottleError as error:  # its command has run: it is not for another node
        return replace(report, lost=str(error))
    if out.exists():
        link.deliver("work", out)
    return replace(report, tips=tips, has_bundle=out.exists())


def _spec_here(spec: BottleSpec, name: str, project: Path) -> BottleSpec:
    """Return a spec for the bottle of a name, with its repository as it is on this node."""
    workspace = replace(spec.workspace, project=project)
    state = spec.state and replace(spec.state, repository=project)
    return replace(spec, slug=name, workspace=workspace, state=state)


def _state_folder(run: RunDir) -> Path:
    """Return a state folder that goes with the run folder, with the logins of this node's user in it."""
    state = run.folder("state")
    (state / "logins").symlink_to(paths.state_dir() / "logins")
    return state


def _attend(link: Link, child: BottleProcess) -> bytes:
    """Send output until the bottle has ended, and end it where the fan asks for that; return its report."""
    document, open_ends = b"", {child.output, child.channel.fileno()}
    signals = iter(((signal.SIGTERM, _PATIENCE), (signal.SIGTERM, _ORDERLY), (signal.SIGKILL, _ORDERLY)))
    stop_at = 0.0  # 0: nobody has asked for the end
    going_on = True
    while open_ends and (child.code is None or select.select(list(open_ends), [], [], 0)[0]):
        pending = b""
        until = time.monotonic() + _BEAT
        while open_ends and (left := until - time.monotonic()) > 0 and len(pending) < _PART:
            ready = select.select(list(open_ends), [], [], left)[0]
            for end in ready:
                data = os.read(end, _PART)
                if not data:
                    open_ends.discard(end)
                elif end == child.output:
                    until = until if pending else min(until, time.monotonic() + _SOON)
                    pending += data
                else:
                    document += data
            if not ready or (child.code is not None and not ready):
                break
        going_on = link.say(pending) and going_on
        if not going_on and time.monotonic() >= stop_at and (step := next(signals, None)):
            child.send(step[0])
            stop_at = time.monotonic() + step[1]
    child.wait(_ORDERLY)
    return document


def _report(child: BottleProcess, document: bytes) -> Report:
    """Return what a bottle's process has reported; one that was killed has reported nothing."""
    code = child.code
    try:
        found = json.loads(document)
        record = found["record"]
        return Report(int(found["exit_status"]), record, str(found["error"]), bool(found["refused"]))
    except (ValueError, KeyError, TypeError):
        status = 137 if code is None else code if code >= 0 else 128 - code
        return Report(status or 100, error="its process ended without a report")
