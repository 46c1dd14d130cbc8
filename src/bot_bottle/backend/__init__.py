"""How a bottle runs."""

from typing import Literal

BackendName = Literal["smolmachines", "docker"]
BACKENDS: tuple[BackendName, ...] = ("smolmachines", "docker")
