"""Examples made up by the thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

T = TypeVar("T")

FEW = [100, pytest.param(5000, marks=pytest.mark.slow)]
MANY = [300, pytest.param(5000, marks=pytest.mark.slow)]


def tried(examples: st.SearchStrategy[T], count: int, judge: Callable[[T], None]) -> None:
    """Have `count` examples judged. One that fails is made as small as it can be."""
    checks = [HealthCheck.too_slow]
    settings(max_examples=count, deadline=None, database=None, suppress_health_check=checks)(
        given(examples)(judge)
    )()
