"""The state of one bottle of a fan, as the cluster knows it."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from bot_bottle.cluster.ring import Ring

State = Literal["queued", "running", "ended"]
Returned = Literal["work", "state"]
"""What a bottle returns: its work as a bundle, and the state of its agent as a tar."""

LOG_PART = 64 << 10  # bytes of a log in one answer


class Report(Struct, frozen=True):
    """How a bottle has ended: `tips` are its commits, `record` the JSON object of its run's record.

    `refused` says that the node could not run it: its command has not started. `lost` says why its work does
    not come back. With `has_state` that of its agent does.
    """

    exit_status: int
    record: dict[str, Any] | None = None
    error: str = ""
    refused: bool = False
    tips: dict[str, str] = field(default_factory=dict)
    has_bundle: bool = False
    lost: str = ""
    has_state: bool = False


class News(Struct, frozen=True):
    """What has changed about a bottle. `log` begins at `log_start`; `log_end` is the end of all output."""

    name: str
    state: State
    node: str
    nodes: tuple[str, ...]
    log: bytes
    log_start: int
    log_end: int
    report: Report | None


class BottleOnCluster(Struct):
    """A bottle. `nodes` are those that it was started on, in order; `refusals` the reasons by node id."""

    name: str
    state: State = "queued"
    nodes: list[str] = field(default_factory=list)
    attempt: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    log: Ring = field(default_factory=Ring)
    report: Report | None = None
    version: int = 0

    def news(self, position: int) -> News:
        """Return what there is, with the log from a position."""
        start, data = self.log.read(position, LOG_PART)
        node = self.nodes[-1] if self.nodes else ""
        return News(self.name, self.state, node, tuple(self.nodes), data, start, self.log.end, self.report)

    def file(self, what: Returned) -> str:
        """Return the name of a file of the current attempt."""
        return f"{what}-{self.name}-{self.attempt}"
