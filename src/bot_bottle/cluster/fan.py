"""The actor that owns a fan's tasks, so that the caller may go away and come back.

It lives on the head of the cluster, in Ray's namespace `bot-bottle`. Files of the caller, and the
work of bottles, are on the head's disk until they are fetched. All methods run in one thread (asyncio).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.bottle.gc import run_context
from bot_bottle.cluster.access import protections
from bot_bottle.cluster.order import FileName, Packed
from bot_bottle.cluster.pieces import Piece, Spool
from bot_bottle.cluster.resources import Needs
from bot_bottle.cluster.seal import Box, seal
from bot_bottle.cluster.session import first_line
from bot_bottle.cluster.state import BottleOnCluster, News, Report, Returned
from bot_bottle.errors import ClusterError
from bot_bottle.host.progress import human_count
from bot_bottle.version import VERSION

if TYPE_CHECKING:  # the head needs none of it
    from bot_bottle.backend import BackendName
    from bot_bottle.vm.accel import Accel

_POLL = 1.0  # seconds that a caller waits for news
_TOGETHER = 0.5  # seconds in which more news is collected: each answer takes three processes' time
_FILE = 5.0  # seconds that a node waits for a piece
_FOLLOWED = 5.0  # seconds in which a caller that is there asks again
_AWAY = 60.0  # seconds after which a caller that does not ask is taken to have gone away


class About(Struct, frozen=True):
    """A head and a fan. `protected` has `token` and `tls`, where they are in force.

    `key` is the one to seal values for; `followed` is true while its caller is there. `bottles` have no logs.
    """

    version: str
    protected: tuple[str, ...]
    key: bytes
    order: Packed
    followed: bool
    bottles: tuple[News, ...]


class Fan:
    """The bottles of a fan by name. Made by `ray.remote`.

    `fan` is its number in the order.
    """

    def __init__(self, names: Sequence[str], order: Packed, fan: str) -> None:
        self._bottles = {name: BottleOnCluster(name) for name in names}
        self._order = order
        self._fan = fan
        self._box = Box()
        self._sealed = b""
        self._folder = ExitStack()
        self._spool = Spool(self._folder.enter_context(run_context()).path)
        self._wanted: list[FileName] = []
        self._changed = asyncio.Event()
        self._version = 0
        self._asked = time.monotonic()
        self._stopping: set[str] = set()
        self._run_on_node: Any = None  # one task: what ends a call of it takes the next
        self._tasks: dict[str, Any] = {}
        self._running: list[asyncio.Task[None]] = []
        self._used: set[str] = set()  # ids of nodes

    async def about(self) -> About:
        """Return what the head says of itself and of the fan."""
        followed = time.monotonic() - self._asked < _FOLLOWED
        bottles = tuple(each.news(each.log.end) for each in self._bottles.values())
        return About(VERSION, protections(), self._box.public, self._order, followed, bottles)

    # of the caller

    async def start(self, needs: Needs, retries: int, sealed: bytes) -> None:
        """Start all bottles. Each is retried `retries` times after its node has died.

        `sealed` are values for them, if there are any.
        """
        import ray

        self._sealed = sealed
        self._run_on_node = ray.remote(run_on_node)
        for bottle in self._bottles.values():
            self._running.append(asyncio.create_task(self._run(bottle, needs, retries)))

    async def supply(self, name: FileName, offset: int, piece: Piece) -> None:
        """Take a piece of a file of the caller's."""
        self._asked = time.monotonic()
        self._spool.add(name, offset, piece)
        self._change()

    async def watch(self, version: int, positions: Mapping[str, int]) -> tuple[int, list[News]]:
        """Return what has changed since a version, with the logs from these positions.

        Waits a moment where nothing has.
        """
        if version == self._version:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _POLL)
        if version != self._version:
            await self._collect()
        news = [
            each.news(positions.get(name, 0))
            for name, each in self._bottles.items()
            if each.version > version or positions.get(name, 0) < each.log.end
        ]
        return self._version, news

    async def poll(
        self, version: int, positions: Mapping[str, int]
    ) -> tuple[int, list[News], list[FileName]]:
        """Return what `watch` does and the files wanted, to the caller, who is there as long as it asks."""
        self._asked = time.monotonic()
        version, news = await self.watch(version, positions)
        self._asked = time.monotonic()
        wanted, self._wanted = self._wanted, []
        return version, news, wanted

    async def returned(self, name: str, what: Returned, offset: int) -> Piece:
        """Return a piece of what a bottle has returned."""
        piece = self._spool.read(self._bottles[name].file(what), offset)
        return piece or Piece(b"", "incomplete")

    async def stop(self, names: Sequence[str]) -> None:
        """Stop bottles: what waits is cancelled, what runs is ended in order."""
        import ray

        for name in names:
            self._stopping.add(name)
            if self._bottles[name].state == "queued" and name in self._tasks:
                ray.cancel(self._tasks[name])
        self._change()

    async def finish(self) -> None:
        """Remove what the fan has on the head and on the nodes, once all bottles have ended."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from bot_bottle.cluster.kept import forget

        await asyncio.gather(*self._running)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        task = ray.remote(num_cpus=0, max_retries=0)(forget)
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in self._used & alive]
        for each in [task.options(scheduling_strategy=place).remote(self._fan) for place in places]:
            with contextlib.suppress(ray.exceptions.RayError):
                await each
        self._folder.close()

    # of the nodes

    async def begin(self, name: str, node: str, node_id: str) -> bool:
        """Take note that a node starts a bottle; return whether it may."""
        bottle = self._bottles[name]
        if bottle.state == "ended":
            return False
        bottle.state = "running"
        bottle.attempt += 1
        bottle.nodes.append(node)
        self._used.add(node_id)
        return name not in self._stopping

    async def say(self, name: str, output: bytes) -> bool:
        """Take a part of a bottle's output; return whether it may go on."""
        bottle = self._bottles[name]
        if output:
            bottle.log.add(output)
            self._change(bottle)
        return name not in self._stopping

    async def piece(self, name: FileName, offset: int) -> Piece | None:
        """Return a piece of a file of the caller's; None if the caller has gone away before it sent it."""
        while (piece := self._spool.read(name, offset)) is None:
            if time.monotonic() - self._asked > _AWAY:
                return None
            if not offset and name not in self._wanted:
                self._wanted.append(name)
            with contextlib.suppress(TimeoutError):
                self._change()
                await asyncio.wait_for(self._changed.wait(), _FILE)
        return piece

    async def values(self, key: bytes) -> bytes:
        """Return the values for the bottles, sealed for the key of a node."""
        return seal(self._box.open(self._sealed), key)

    async def has_values(self) -> bool:
        """Return whether there are values for the bottles."""
        return bool(self._sealed)

    async def deliver(self, name: str, what: Returned, offset: int, piece: Piece) -> None:
        """Take a piece of what a bottle returns."""
        self._spool.add(self._bottles[name].file(what), offset, piece)

    # of its own

    def _change(self, bottle: BottleOnCluster | None = None) -> None:
        self._version += 1
        if bottle is not None:
            bottle.version = self._version
        self._changed.set()
        self._changed = asyncio.Event()

    async def _collect(self) -> None:
        """Wait for more news, unless the caller has something to send, or there will be no more."""
        until = time.monotonic() + _TOGETHER
        while (left := until - time.monotonic()) > 0 and not self._wanted:
            if all(each.state == "ended" for each in self._bottles.values()):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _run(self, bottle: BottleOnCluster, needs: Needs, retries: int) -> None:
        """Run a bottle until it has ended, on other nodes than those that refuse it."""
        report = Report(130, error="it was stopped before it began")
        while bottle.name not in self._stopping:
            report = await self._attempt(bottle, needs, retries)
            if not report.refused or not self._others(bottle, needs):
                break
            bottle.state = "queued"
            self._change(bottle)
        bottle.report, bottle.state = report, "ended"
        self._change(bottle)

    async def _attempt(self, bottle: BottleOnCluster, needs: Needs, retries: int) -> Report:
        import ray
        from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

        options = {**needs.options(), "max_retries": retries, "name": f"bottle {bottle.name}"}
        if bottle.refusals:
            options["scheduling_strategy"] = NodeLabelSchedulingStrategy(
                hard={"ray.io/node-id": NotIn(*bottle.refusals)}
            )
        me = ray.get_runtime_context().current_actor
        begun = bottle.attempt
        task = self._run_on_node.options(**options).remote(me, bottle.name, self._order)
        self._tasks[bottle.name] = task
        try:
            node_id, report = await task
        except ray.exceptions.TaskCancelledError:
            return Report(130, error="it was stopped before it began")
        except ray.exceptions.RayError as error:
            times = bottle.attempt - begun
            why = f"its node died, {human_count(times, 'time')}" if times else "it could not be placed"
            return Report(ClusterError.exit_code, error=f"{why}: {first_line(error)}")
        if report.refused:
            bottle.refusals[node_id] = report.error
        found: Report = report
        return found

    def _others(self, bottle: BottleOnCluster, needs: Needs) -> bool:
        """Return whether there is another node that could run a bottle."""
        import ray

        return any(
            node["Alive"] and node["NodeID"] not in bottle.refusals and needs.fits(node["Resources"])
            for node in ray.nodes()
        )


def run_on_node(fan: Any, name: str, order: Packed) -> tuple[str, Report]:
    """Run a bottle, and return the id of this node and how it has ended. This is the Ray task."""
    from bot_bottle.cluster.task import run  # not on the head

    return run(fan, name, order)


def load_on_node(backend: BackendName, accel: Accel) -> None:
    """Prepare a worker for bottles of this kind. This is a Ray task too."""
    from bot_bottle.cluster.task import load  # not on the head

    load(backend, accel)
