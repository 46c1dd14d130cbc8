"""The limits of a run: its time, and the budget of what it uses with credentials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct, field

from bot_bottle.errors import SpecError
from bot_bottle.host.durations import parse_duration
from bot_bottle.network.policy import Policy
from bot_bottle.network.usage import Budget
from bot_bottle.secrets.reference import Reference

_LONGEST = 365 * 24 * 3600  # seconds
_MOST = 1 << 40  # requests or tokens


class Limits(Struct, frozen=True):
    """The limits. `timeout` are seconds, from the start of the command; None: as long as it takes."""

    timeout: int | None = None
    budget: Budget = field(default_factory=Budget)

    def described(self) -> dict[str, Any]:
        """Return the limits as a JSON document."""
        return {
            "timeout": self.timeout,
            "requests": self.budget.requests,
            "tokens": self.budget.tokens,
        }


def parse_limits(timeout: str | None, requests: int | None, tokens: int | None) -> Limits:
    """Return the limits of settings. Raises SpecError."""
    seconds = None if timeout is None else parse_duration(timeout)
    if timeout is not None and (seconds is None or seconds > _LONGEST):
        raise SpecError(f"invalid timeout: {timeout[:50]!r}", next_step="write it as 90s, 10m, 2h or 1h30m")
    for name, count in (("requests", requests), ("tokens", tokens)):
        if count is not None and not 1 <= count <= _MOST:
            raise SpecError(f"the limit of {name} must be 1 to {_MOST}, not {count}")
    return Limits(seconds, Budget(requests, tokens))


def check_budget(budget: Budget, egress: Policy, secrets: Iterable[Reference]) -> None:
    """Refuse a budget that cannot be in force, as no request of the bottle is read. Raises SpecError."""
    if budget.limited is None or any(secret.hosts for secret in secrets):
        return
    why = "no secret of this bottle has hosts, so that the proxy reads no requests with it"
    if egress.open:
        why = f"the network is open, and {why}"
    elif egress.closed:
        why = f"the bottle has no network, and {why}"
    raise SpecError(
        f"a limit of {budget.limited} cannot be in force",
        why=why,
        next_step="use bottle login, or give --secret with host=; or drop --max-requests and --max-tokens",
    )
