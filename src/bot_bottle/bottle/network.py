"""The walls of a bottle that runs: tried again, what they refused, and what they let out besides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bot_bottle.backend.container import probes as docker_walls
from bot_bottle.backend.microvm import probes as proving
from bot_bottle.bottle import names
from bot_bottle.bottle import records as receipts
from bot_bottle.bottle.spec import check_slug
from bot_bottle.engine.engine import find_engine
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.network import audit_log as log
from bot_bottle.network.policy import Policy, load_policy, parse_policy, save_policy
from bot_bottle.network.probes import Proof
from bot_bottle.vm.host import NativeHost
from bot_bottle.vm.smolvm import find_smolvm


def refusals(name: str, *, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Give what a bottle's last run was refused, as `egress.log` has it; with `follow` until it has ended.

    Raises ReceiptError when there was no such run.
    """
    path = receipts.refusals_of(receipts.newest_path(check_slug(name)))
    return log.read(path, lambda: follow and names.lives(name))


def allow(name: str, entries: list[str]) -> Policy:
    """Let a running bottle reach more and give all of its policy. Raises SpecError where that fails."""
    receipt = _running(name)
    added = parse_policy(entries)
    if receipt["plan"]["egress"]["open"]:
        raise SpecError(f"the bottle {name} has no walls", why="egress is open")
    again = f"stop it, and run it again with {' '.join(f'--allow {rule}' for rule in added.rules)}"
    if receipt["place"] == "emulated":
        raise SpecError(f"the bottle {name} cannot be changed: it is on an emulated host", next_step=again)
    own = receipts.newest_path(name)
    path = receipts.policy_of(own)
    if not path.exists():
        raise SpecError(f"the bottle {name} was started without a network", next_step=again)
    with log.Log(receipts.refusals_of(own)) as journal:
        before = load_policy(path)
        policy = replace(before, rules=tuple(dict.fromkeys((*before.rules, *added.rules))))
        if receipt["place"] == "kvm":
            proving.widen(f"bottle-{name}", added, _native())
        save_policy(policy, path)
        for rule in added.rules:
            journal.changed(str(rule))
    return policy


def prove(name: str) -> Proof:
    """Try the walls of a running bottle again, from inside. Raises SpecError for one that does not run."""
    receipt = _running(name)
    plan = receipt["plan"]
    if receipt["place"] == "emulated":
        raise SpecError(
            f"the walls of the bottle {name} were proved when it had booted, and cannot be tried again",
            why="it is on an emulated host, which takes no other command",
        )
    path = receipts.policy_of(receipts.newest_path(name))
    policy = load_policy(path) if path.exists() else Policy(open=plan["egress"]["open"])
    if receipt["place"] == "kvm":
        return proving.prove(f"bottle-{name}", policy, _native(), published=bool(plan.get("ports")))
    engine = str(receipt["versions"].get("engine", "")).partition(" ")[0]
    return docker_walls.prove(find_engine(engine or None), f"bottle-{name}", str(plan["user"]), policy)


def _native() -> NativeHost:
    return NativeHost(find_smolvm(Progress()))


def _running(name: str) -> dict[str, Any]:
    receipt = receipts.newest(check_slug(name))
    if receipt.get("ended") or not names.lives(name) or not receipt.get("proof"):
        raise SpecError(f"the bottle {name} is not running", next_step="see bottle ls")
    return receipt
