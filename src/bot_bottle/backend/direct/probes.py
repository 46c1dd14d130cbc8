"""The probes of an emulated microVM before its command starts: without a network those of any microVM."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bot_bottle.host.wait import wait_until
from bot_bottle.network import smolvm_policy
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import CLEARED, SECONDS, SHELL, Proof, canary, judge, script
from bot_bottle.vm.direct.container import User, process_document
from bot_bottle.vm.direct.machine import Attached, Machine
from bot_bottle.vm.direct.sessions import remote_session

_PATIENCE = (SECONDS, 5.0, 40.0)  # seconds for a probe, of one try and the next
_TIMEOUT = 120.0
_NAME = "bottle-probe.invalid"  # never exists (RFC 2606)
_ROOT = User(0, 0, "/root")


def prove(machine: Machine, policy: Policy) -> Proof:
    """Run the probes in a running guest; again with more time if one fails, as a busy machine may be late."""

    def run(command: tuple[str, ...]) -> bytes:
        return machine.run(process_document(command, _ROOT, CLEARED, "/"), _TIMEOUT).stdout

    return _proved(run, policy)


def prove_again(folder: Path, policy: Policy) -> Proof:
    """Run the probes in the guest of another process, whose machine has this folder. Raises SpecError."""

    def run(command: tuple[str, ...]) -> bytes:
        out, err = bytearray(), bytearray()
        request = {"command": command, "env": CLEARED, "user": "0", "workdir": "/", "size": None}
        with remote_session(folder, request) as session, ExitStack() as stack:
            attached = Attached(session, folder, None, out.extend, err.extend)
            stack.callback(attached.close)
            attached.start("run", b"")
            wait_until(lambda: attached.wait(0.5) is not None, _TIMEOUT, pause=0)
        return bytes(out)

    return _proved(run, policy)


def _proved(run: Callable[[tuple[str, ...]], bytes], policy: Policy) -> Proof:
    proof = Proof({})
    for seconds in _PATIENCE:
        with canary() as port:
            probes = smolvm_policy.probes(policy, port, _NAME)
            proof = judge(run((*SHELL, script(probes, seconds=seconds))), probes) if probes else Proof({})
        if proof.ok or any(outcome == "open" and not ok for outcome, ok in proof.results.values()):
            return proof
    return proof
