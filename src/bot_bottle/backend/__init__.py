"""The two backends: what runs a bottle."""

from typing import Literal

BackendName = Literal["smolmachines", "docker"]
BACKENDS: tuple[BackendName, ...] = ("smolmachines", "docker")
