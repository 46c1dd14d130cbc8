"""While a microVM runs: smolvm's refusals are logged, its rules follow the policy and the proxy's end.

The proxy reads a changed policy by itself. smolvm's own rules are changed here, by the process that started
the machine, as no other can where the machine is on an emulated host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.microvm.network import Network
from bot_bottle.backend.microvm.probes import PAUSE, TIMEOUT, refusals
from bot_bottle.errors import BottleError
from bot_bottle.host.signals import defer_signals
from bot_bottle.network.audit_log import Log
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import Policy, load_policy
from bot_bottle.network.smolvm_policy import batches, narrowing_argv, widening_argv
from bot_bottle.vm.host import Host
from bot_bottle.vm.smolvm import update_argv

_TICK = 0.2  # seconds


@contextmanager
def watched(launch: BottleConfig, host: Host, network: Network, record: EgressFiles) -> Iterator[None]:
    """Watch a machine until the block ends. Raises SmolvmError."""
    over = threading.Event()
    with Log(record.log) as log:
        watch = _Watch(launch, host, network, record, log)
        watcher = threading.Thread(target=watch.run, args=(over,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            with defer_signals():
                over.set()
                watcher.join(TIMEOUT)
                watch.log_refusals()


class _Watch:
    def __init__(
        self,
        launch: BottleConfig,
        host: Host,
        network: Network,
        record: EgressFiles,
        log: Log,
    ) -> None:
        self._machine, self._host = launch.name, host
        self._network, self._log = network, log
        self._path = record.policy
        self._policy, self._stamp = launch.egress, self._stamped()
        self._known = refusals(launch.name, host)

    def run(self, over: threading.Event) -> None:
        """Look at everything by turns, until it is over."""
        pause = PAUSE[self._host.kind]
        due = time.monotonic() + pause
        while not over.wait(_TICK):
            if self._network.ended:
                self._network.refuse()
            self._follow_policy()
            if time.monotonic() >= due:
                self.log_refusals()
                due = time.monotonic() + pause

    def log_refusals(self) -> None:
        """Log what smolvm has refused since the last time."""
        with suppress(BottleError):  # the next reading finds what this one has missed
            found = refusals(self._machine, self._host)
            for event in _new(self._known, found):
                name, port = _destination(str(event.get("dest")))
                self._log.refused(name, port, "it is not allowed", when=str(event.get("timestamp"))[:30])
            self._known = found

    def _follow_policy(self) -> None:
        """Change smolvm's rules as the policy was changed; what fails is tried again."""
        if (stamp := self._stamped()) in (self._stamp, None):
            return
        with suppress(BottleError, OSError, ValueError):
            policy = load_policy(self._path)
            added = Policy(tuple(rule for rule in policy.rules if rule not in self._policy.rules))
            for changed in (widening_argv(added), narrowing_argv(self._policy, policy)):
                for options in batches(changed):
                    self._host.call(update_argv(self._machine, options), timeout=TIMEOUT)
            self._policy, self._stamp = policy, stamp

    def _stamped(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def _new(known: list[Any], found: list[Any]) -> list[dict[str, Any]]:
    """Return the new events of a list; the oldest of the earlier list may have been dropped."""
    for gone in range(len(known)):
        if known[gone:] == found[: len(known) - gone]:
            return found[len(known) - gone :]
    return found


def _destination(text: str) -> tuple[str, int]:
    """Return host and port; a name that was to be resolved has none."""
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (text, 0)
