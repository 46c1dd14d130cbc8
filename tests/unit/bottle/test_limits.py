"""The limits of a run: how they are written, and what cannot be in force."""

from __future__ import annotations

from typing import Any

import pytest

from bot_bottle.bottle.limits import Limits, check_budget, parse_limits
from bot_bottle.errors import SpecError
from bot_bottle.host.durations import human_duration
from bot_bottle.network.policy import NOTHING, Policy, parse_policy
from bot_bottle.network.usage import Budget
from bot_bottle.secrets.reference import Reference
from bot_bottle.structs import replace


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("90s", 90, "1m30s"),
        ("10m", 600, "10m"),
        ("2h", 7200, "2h"),
        ("1h30m", 5400, "1h30m"),
        (" 1H1S", 3601, "1h1s"),
    ],
)
def test_times_are_written_as_people_write_them(text: str, seconds: int, shown: str) -> None:
    assert parse_limits(text, None, None) == Limits(seconds)
    assert human_duration(seconds) == shown


@pytest.mark.parametrize(
    "given",
    [(each, None, None) for each in ("", "0s", "90", "-1s", "1.5h", "30m1h", "9999999h", "8761h")]
    + [(None, 0, None), (None, None, -1), (None, None, 1 << 60)],
)
def test_an_invalid_limit_is_refused(given: Any) -> None:
    with pytest.raises(SpecError):
        parse_limits(*given)


@pytest.mark.parametrize(
    ("egress", "why"),
    [
        (NOTHING, "has no network"),
        (replace(NOTHING, open=True), "the network is open"),
        (parse_policy(["api.example.org"]), "no secret of this bottle has hosts"),
    ],
)
def test_a_budget_that_cannot_be_in_force_is_refused(egress: Policy, why: str) -> None:
    plain = Reference("KEY", "env", "KEY")
    for budget in (Budget(requests=1), Budget(tokens=1)):
        with pytest.raises(SpecError) as raised:
            check_budget(budget, egress, [plain])
        assert why in raised.value.why
        check_budget(budget, egress, [plain, replace(plain, hosts=("api.example.org",))])
    check_budget(Budget(), egress, [])
