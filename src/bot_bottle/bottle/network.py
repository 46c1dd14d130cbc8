"""The network of a running bottle: probed again, refused connections, added rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bot_bottle.backend.choice import backend_at
from bot_bottle.bottle import names, records
from bot_bottle.bottle.records import RunRecord
from bot_bottle.bottle.spec import check_slug
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.network import audit_log
from bot_bottle.network.policy import Policy, load_policy, parse_policy, save_policy
from bot_bottle.network.probes import Proof


def requests(name: str, *, everything: bool = False, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what a bottle's last run was refused; with `everything` all of its connections and requests.

    With `follow` this ends when the bottle has exited. Raises ReceiptError when there was no such run.
    """
    path = records.refusals_of(records.newest_path(check_slug(name)))
    for entry in audit_log.read(path, lambda: follow and names.is_running(name)):
        if everything or audit_log.is_refusal(entry):
            yield entry


def allow(name: str, entries: list[str]) -> Policy:
    """Add rules to a running bottle and return all of its policy. Raises SpecError where that fails."""
    record = _running(name)
    added = parse_policy(entries)
    if _is_open(record):
        raise SpecError(f"the bottle {name} has an unrestricted network", why="there is nothing to allow")
    again = f"stop it, and run it again with {' '.join(f'--allow {rule}' for rule in added.rules)}"
    machine = record.machine()
    backend = backend_at(machine.place)
    try:
        backend.check_can_allow(machine)
    except SpecError as error:
        error.next_step = again
        raise
    if not record.policy.exists():
        raise SpecError(f"the bottle {name} was started without a network", next_step=again)
    with audit_log.Log(record.log) as journal:
        before = load_policy(record.policy)
        policy = replace(before, rules=tuple(dict.fromkeys((*before.rules, *added.rules))))
        backend.allow(machine, added)
        save_policy(policy, record.policy)
        for rule in added.rules:
            journal.changed(str(rule))
    return policy


def check(name: str, progress: Progress) -> Proof:
    """Probe again from inside what a running bottle can reach. Raises SpecError for one that does not run."""
    record = _running(name)
    policy = load_policy(record.policy) if record.policy.exists() else Policy(open=_is_open(record))
    machine = record.machine()
    return backend_at(machine.place).probe(machine, policy, progress)


def _is_open(record: RunRecord) -> bool:
    egress = (record.plan or {}).get("egress")
    return isinstance(egress, dict) and egress.get("open") is True


def _running(name: str) -> RunRecord:
    record = records.newest(check_slug(name))
    if record.ended or not names.is_running(name) or not record.proof:
        raise SpecError(f"the bottle {name} is not running", next_step="see bottle ls")
    return record
