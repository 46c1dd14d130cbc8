"""The network of a running bottle: probed again, refused connections, rules added and removed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.backend.base import Backend
from bot_bottle.backend.choice import backend_at
from bot_bottle.bottle import names, records
from bot_bottle.bottle.records import RunRecord
from bot_bottle.bottle.spec import check_slug
from bot_bottle.errors import SpecError
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.network import audit_log
from bot_bottle.network.policy import Policy, load_policy, parse_policy, save_policy
from bot_bottle.network.probes import Proof
from bot_bottle.network.proposals import Proposals, propose
from bot_bottle.structs import replace


def requests(name: str, *, everything: bool = False, follow: bool = False) -> Iterator[dict[str, Any]]:
    """Yield what a bottle's last run was refused; with `everything` all of its connections and requests.

    With `follow` this ends when the bottle has exited. Raises ReceiptError when there was no such run.
    """
    path = records.refusals_of(records.newest_path(check_slug(name)))
    for entry in audit_log.read(path, lambda: follow and names.is_running(name)):
        if everything or audit_log.is_refusal(entry):
            yield entry


def policy_of(name: str) -> Policy:
    """Return what a running bottle may reach now. Raises SpecError for one that does not run."""
    return _policy(_running(name))


def _policy(record: RunRecord) -> Policy:
    return load_policy(record.policy) if record.policy.exists() else Policy(open=_is_open(record))


def proposals(name: str, policy: Policy) -> Proposals:
    """Return the entries that a bottle's last run would have needed beyond its policy at the beginning."""
    return propose(requests(name, everything=True), policy)


def questions(name: str) -> Path:
    """Return the socket for a running bottle's questions. Raises SpecError where it asks none."""
    record = _running(name)
    if (record.plan or {}).get("ask") is not True:
        raise SpecError(
            f"the bottle {name} was started without --ask",
            next_step=f"see bottle logs --egress {name}, and use bottle allow {name} HOST",
        )
    return record.ask


def allow(name: str, entries: list[str]) -> Policy:
    """Add rules to a running bottle and return all of its policy. Raises SpecError where that fails."""
    added = parse_policy(entries)
    options = (f"--allow {shlex.quote(str(rule))}" for rule in added.rules)
    again = f"stop it, and run it again with {' '.join(options)}"
    with _changed(name, "there is nothing to allow", again) as (record, backend, before):
        _check_readable(name, added, before, again)
        policy = replace(before, rules=tuple(dict.fromkeys((*before.rules, *added.rules))))
        backend.allow(record.machine(), added)
        _save(record, policy, map(str, added.rules), "allowed from now on")
    return policy


def _check_readable(name: str, added: Policy, before: Policy, again: str) -> None:
    """Check that rules for some requests only can be added to a running bottle. Raises SpecError."""
    rule = next((rule for rule in added.rules if rule.restricts_requests), None)
    if rule is not None and not before.reading:
        raise SpecError(
            f"the bottle {name} cannot be allowed {rule}",
            why="the proxy would have to read its requests, and the bottle trusts no authority for that: it"
            " was started without an entry with methods or a path, and without a secret with hosts",
            next_step=f"{again}; or allow the host for all requests",
        )


def disallow(name: str, entries: list[str]) -> Policy:
    """Remove rules from a running bottle and return the rest of its policy.

    Connections that are open go on. Raises SpecError where that fails.
    """
    removed = parse_policy(entries)
    again = "stop it, and run it again without them"
    with _changed(name, "it has no rules", again) as (record, backend, before):
        backend.check_can_disallow(record.machine())
        if missing := [str(rule) for rule in removed.rules if rule not in before.rules]:
            raise SpecError(
                f"the bottle {name} has no rule {missing[0]}",
                why="a rule is removed as a whole, by the entry that made it",
                next_step=f"see bottle allow {name}",
            )
        rest = tuple(rule for rule in before.rules if rule not in removed.rules)
        policy = replace(before, rules=rest, proxied=True)  # the proxy stays, also without rules
        _save(record, policy, map(str, removed.rules), "no longer allowed")
    return policy


@contextmanager
def _changed(name: str, why: str, again: str) -> Iterator[tuple[RunRecord, Backend, Policy]]:
    """Yield a running bottle, its backend and its policy, which nobody else changes during the block.

    Raises SpecError, with `why` for an open network, and `again` as the next step where it cannot be changed.
    """
    record = _running(name)
    if _is_open(record):
        raise SpecError(f"the bottle {name} has an unrestricted network", why=why)
    machine = record.machine()
    backend = backend_at(machine.place)
    try:
        backend.check_can_allow(machine)
    except SpecError as error:
        error.next_step = again
        raise
    if not record.policy.exists():
        raise SpecError(f"the bottle {name} was started without a network", next_step=again)
    with exclusive_lock(record.log, lambda: None):
        yield record, backend, load_policy(record.policy)


def _save(record: RunRecord, policy: Policy, rules: Iterable[str], what: str) -> None:
    with audit_log.Log(record.log) as log:
        save_policy(policy, record.policy)
        for rule in rules:
            log.changed(rule, what)


def check(name: str, progress: Progress) -> Proof:
    """Probe again from inside what a running bottle can reach. Raises SpecError for one that does not run."""
    record = _running(name)
    machine = record.machine()
    return backend_at(machine.place).probe(machine, _policy(record), progress)


def _is_open(record: RunRecord) -> bool:
    egress = (record.plan or {}).get("egress")
    return isinstance(egress, dict) and egress.get("open") is True


def _running(name: str) -> RunRecord:
    record = records.newest(check_slug(name))
    if record.ended or not names.is_running(name) or not record.proof:
        raise SpecError(f"the bottle {name} is not running", next_step="see bottle ls")
    return record
