"""Fans on a cluster found by their names: listed, their output printed, stopped, their work fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.replicas import Result
from bot_bottle.cluster.fan import About
from bot_bottle.cluster.following import Output, Target, follow
from bot_bottle.cluster.order import unpacked
from bot_bottle.cluster.session import NAMESPACE, Session
from bot_bottle.errors import BottleError, ClusterError, ReceiptError
from bot_bottle.host.progress import Progress
from bot_bottle.workspace.bundle import Origin
from bot_bottle.workspace.repository import open_repository

_NO_ACTOR = (ValueError, ClusterError)


class Found(Struct, frozen=True):
    """A fan on a cluster. `names` are those of its bottles that were asked for."""

    name: str
    actor: Any
    about: About
    names: tuple[str, ...]


def list_fans(session: Session) -> Iterator[Found]:
    """Yield the fans on a cluster by name; those that end meanwhile are left out."""
    for name in sorted(session.actors()):
        try:
            yield _found(session, name)
        except _NO_ACTOR:
            continue


def find(session: Session, name: str) -> Found:
    """Return the fan of this name, or the one that has a bottle of this name. Raises ReceiptError."""
    for fan in (name, name.rpartition("-")[0]):
        if fan in session.actors():
            found = _found(session, fan)
            if name == fan:
                return found
            if name in found.names:
                return Found(fan, found.actor, found.about, (name,))
    raise ReceiptError(
        f"there is no fan or bottle named {name} on {session.address}",
        next_step=f"see bottle ls --on {session.address}",
    )


def _found(session: Session, name: str) -> Found:
    actor = session.ray.get_actor(name, namespace=NAMESPACE)
    about: About = session.get(actor.about.remote())
    return Found(name, actor, about, tuple(each.name for each in about.bottles))


def show_output(session: Session, found: Found, progress: Progress, *, follow: bool) -> None:
    """Print the output of a fan's bottles by lines; with `follow` until all have ended."""
    version, output, ended = 0, Output(progress, store=False), set()
    with output:
        while True:
            before = version
            version, news = session.get(found.actor.watch.remote(version, output.positions))
            for each in news:
                if each.name in found.names:
                    output.add(each)
                else:
                    output.positions[each.name] = each.log_end
                if each.state == "ended" and output.is_whole(each):
                    ended.add(each.name)
            is_rest = any(not output.is_whole(each) for each in news)
            if ended >= set(found.names) or not (follow or is_rest or not before):
                return


def stop(
    session: Session, found: Found, progress: Progress, on_end: Callable[[Result], None]
) -> Sequence[Result]:
    """Stop a fan or one of its bottles, and wait for the end.

    A fan without a caller is removed then, and its work comes into the repository that it was started in.
    Where that is not on this machine, it stays on the cluster. Raises ClusterError.
    """
    session.get(found.actor.stop.remote(found.names))
    whole = len(found.names) == len(found.about.bottles)
    if found.about.followed or not whole:
        _wait(session, found)
        return []
    origin = unpacked(found.about.order).origin
    _check_repository(origin, found.name)
    with run_context() as run:
        target = Target(origin, run.path)
        return follow(session, found.actor, found.names, target, progress, on_end, lambda _: None)


def _wait(session: Session, found: Found) -> None:
    """Wait until bottles have ended; a fan whose caller has fetched them is gone then."""
    version = 0
    ended: set[str] = set()
    while not ended >= set(found.names):
        try:
            positions = dict.fromkeys(found.names, 1 << 62)
            version, news = session.get(found.actor.watch.remote(version, positions))
        except ClusterError:
            if found.name not in session.actors():
                return
            raise
        ended |= {each.name for each in news if each.state == "ended"}


def _check_repository(origin: Origin, name: str) -> None:
    """Raise ClusterError unless a fan's repository is here."""
    try:
        there = (
            open_repository(Path(origin.repository)).git.run("cat-file", "-t", origin.base, check=False).text
        )
    except BottleError:
        there = ""
    if there != "commit":
        raise ClusterError(
            f"{name} was stopped, and its work is still on the cluster",
            why=f"it belongs to {origin.repository}, which is not here",
            next_step="repeat this on the machine that it was started on",
        )
