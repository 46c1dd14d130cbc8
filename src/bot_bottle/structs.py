"""Copy records with changes; CONTRIBUTING.md says which are Structs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

if TYPE_CHECKING:
    from dataclasses import replace as replace  # mypy checks its changes, of a Struct too
else:

    def replace(record: Any, /, **changes: Any) -> Any:
        """Return a record, a Struct or a dataclass, with changes."""
        change = structs.replace if isinstance(record, Struct) else dataclasses.replace
        return change(record, **changes)
