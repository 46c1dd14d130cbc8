"""Which failures of smolvm's packer on an emulated host are tried again: those of its machines."""

from __future__ import annotations

import pytest

from bot_bottle.errors import BootError, SmolvmError
from bot_bottle.pack.smolvm import may_be_luck

CREATE = "smolvm pack create failed with exit status 1"


@pytest.mark.parametrize(
    ("error", "is_luck"),
    [
        (BootError("the emulated host ended while a command ran in it"), True),
        (SmolvmError(CREATE, why="Error: VM exited before the agent was ready"), True),
        (SmolvmError(CREATE, why="Error: agent did not become ready within 30s"), True),
        (SmolvmError(CREATE, why="connect to agent: Connection refused\nError: connection closed"), True),
        (SmolvmError(CREATE, why="Error: no space left on device"), False),
        (SmolvmError(CREATE), False),
    ],
)
def test_what_may_be_luck_is_tried_again(error: BootError | SmolvmError, is_luck: bool) -> None:
    assert may_be_luck(error) == is_luck
