"""Which variant of an architecture is taken: the order of containerd's platforms package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bot_bottle.image.platforms import amd64_level, preference, suits
from bot_bottle.image.spec import Platform

V2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}
V3 = V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}


@pytest.mark.parametrize(
    ("wanted", "offered", "taken"),
    [
        ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v3 linux/amd64/v4", "linux/amd64/v3"),
        ("linux/amd64/v3", "linux/amd64/v2 linux/amd64/v4 linux/amd64", "linux/amd64/v2"),
        ("linux/amd64/v2", "linux/amd64/v3 linux/amd64/v1", "linux/amd64/v1"),
        ("linux/amd64/v1", "linux/amd64/v2 linux/amd64", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v3 linux/arm64 windows/amd64", None),
        ("linux/arm", "linux/arm/v5 linux/arm/v7 linux/arm/v8", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v7 linux/arm/v5 linux/arm/v6", "linux/arm/v6"),
        ("linux/arm64/v8", "linux/arm64/v9 linux/arm64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v8.2 linux/arm64/v9.0 linux/arm64", "linux/arm64/v9.0"),
        ("linux/riscv64", "linux/riscv64/rva22", "linux/riscv64/rva22"),
        ("linux/riscv64/rva22", "linux/riscv64/rva23", None),
        ("linux/amd64", "linux/amd64/fancy linux/amd64", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v10000", None),
    ],
)
def test_the_best_variant_that_runs_is_taken(wanted: str, offered: str, taken: str | None) -> None:
    levels = {name: preference(Platform.parse(name), Platform.parse(wanted)) for name in offered.split()}
    usable = {name: level for name, level in levels.items() if level is not None}
    assert (max(usable, key=lambda name: usable[name]) if usable else None) == taken


def test_the_base_always_runs_here() -> None:
    here = Platform.of_this_machine()
    assert suits(here, here)
    assert not suits(Platform("linux", here.architecture, "v99"), here)


@pytest.mark.parametrize(
    ("flags", "level"), [(set(), 1), (V2, 2), (V3 - {"cx16"}, 1), (V3, 3), (V2 | {"avx"}, 2)]
)
def test_a_processors_flags_give_its_level(flags: set[str], level: int) -> None:
    assert amd64_level(flags) == level


def test_the_level_of_this_processor_is_what_the_dynamic_loader_says() -> None:
    """glibc chooses among libraries for the levels by the same rules."""
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    said = subprocess.run([loader, "--help"], capture_output=True, check=True, timeout=10).stdout.decode()
    levels = [line for line in said.splitlines() if "x86-64-v" in line and "(supported" in line]
    most = max((int(line.split("x86-64-v")[1][0]) for line in levels), default=1)
    here = Platform("linux", "amd64")
    assert suits(Platform("linux", "amd64", f"v{min(most, 3)}"), here)
    assert not suits(Platform("linux", "amd64", f"v{min(most, 3) + 1}"), here)
