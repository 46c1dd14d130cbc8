"""Artifacts to a registry and back, beside other clients; and what of a changed one is sent."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.bottle import PROGRAM
from tests.support.clients import crane_program
from tests.support.cutting import cutting

from benchmarks.measure import Claim, rounds
from benchmarks.peers import docker_registry
from benchmarks.scale import write_image
from bot_bottle.vm.package import link, package_folder

FILES, SIZE = 500, 2_000_000  # of the layer that both images have: 400 MB, compressed
CHANGE = 10_000_000  # bytes of the layer that differs; they do not compress


@dataclass(frozen=True)
class _Machine:
    """A cache folder of its own, and nobody's settings and logins."""

    folder: Path

    def bottle(self, *args: str | Path) -> str:
        """Run bottle; return what it printed."""
        return _run(PROGRAM, *args, "--quiet", env=self._env)

    @property
    def _env(self) -> dict[str, str]:
        names = ("BOT_BOTTLE_CACHE_DIR", "BOT_BOTTLE_STATE_DIR", "DOCKER_CONFIG", "XDG_CONFIG_HOME")
        return {name: str(self.folder / name) for name in names}

    def forget(self) -> None:
        """Remove all that it has."""
        shutil.rmtree(self.folder, ignore_errors=True)


def measure(count: int, _largest: int) -> list[Claim]:
    """Push and pull an artifact, and pull another one that shares all but one layer."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        crane, smolvm = crane_program(folder), _smolvm(folder)
        ci, laptop = _Machine(folder / "ci"), _Machine(folder / "laptop")
        for image in ("one", "two"):
            write_image(folder / f"{image}.tar", FILES, SIZE, CHANGE)
        artifacts = [
            Path(ci.bottle("pack", "--archive", folder / f"{image}.tar").strip()) for image in ("one", "two")
        ]
        with docker_registry(folder) as (_, port), cutting(port) as relay:
            host = f"127.0.0.1:{port}"
            one, two = f"{host}/bench/agent:one", f"{host}/bench/agent:two"
            sent = _pushes(count, host, ci, artifacts[0], folder, smolvm)
            for tag, artifact in ((one, artifacts[0]), (two, artifacts[1])):
                ci.bottle("push", tag, "--artifact", artifact)

            def first() -> None:
                laptop.forget()
                laptop.bottle("pull", one)

            pulls = rounds(
                count,
                first=first,
                changed=lambda: _drop(laptop.bottle("pull", two)),
                crane=lambda: _by_crane(crane, one, folder),
                smolvm=lambda: _by_smolvm(smolvm, one, folder),
            )
            first()
            before = relay.passed["down"]
            laptop.bottle("pull", two.replace(str(port), str(relay.port)))
            moved = relay.passed["down"] - before
        megabytes = artifacts[0].stat().st_size / 1e6
    what = f"an artifact of {megabytes:.0f} MB"
    return [
        Claim(f"push of {what}", "s", sent["ours"], sent["theirs"], "smolvm pack push"),
        Claim(f"pull of {what}", "s", pulls["first"], pulls["crane"], "crane pull"),
        Claim(f"pull of {what}", "s", pulls["first"], pulls["smolvm"], "smolvm pack pull"),
        Claim("pull of one that differs by 10 MB", "s", pulls["changed"], pulls["first"], "the first pull"),
        Claim("what that moves", "MB", (moved / 1e6,), (CHANGE / 1e6,), "what differs", at_most=1.1),
    ]


def _pushes(
    count: int, host: str, ci: _Machine, artifact: Path, folder: Path, smolvm: Path
) -> dict[str, tuple[float, ...]]:
    """Push to another repository each time, which has none of the artifact's content."""
    number = iter(range(1 << 20))

    def theirs() -> None:
        _run(smolvm, "pack", "push", "-f", artifact, f"{host}/bench/n{next(number)}:1", env=_home(folder))

    return rounds(
        count,
        ours=lambda: _drop(ci.bottle("push", f"{host}/bench/n{next(number)}:1", "--artifact", artifact)),
        theirs=theirs,
    )


def _by_crane(crane: Path, reference: str, folder: Path) -> None:
    target = folder / "by-crane"
    shutil.rmtree(target, ignore_errors=True)
    how = ("--insecure", "--format=oci", "--platform", f"linux/{_architecture()}")
    _run(crane, "pull", *how, reference, target, env=_home(folder))


def _by_smolvm(smolvm: Path, reference: str, folder: Path) -> None:
    shutil.rmtree(folder / "home", ignore_errors=True)
    _run(smolvm, "pack", "pull", "-o", folder / "by-smolvm", reference, env=_home(folder))


def _smolvm(folder: Path) -> Path:
    package = package_folder()
    if package is None:
        raise RuntimeError("the package smolmachines is not installed")
    link(package[0] / "smol-vmm", folder / "smolvm")
    return folder / "smolvm"


def _home(folder: Path) -> dict[str, str]:
    home = str(folder / "home")
    return {"HOME": home, "XDG_CACHE_HOME": home, "XDG_DATA_HOME": home, "DOCKER_CONFIG": home}


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def _run(program: Path, *args: str | Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        [program, *args], env={**os.environ, **env}, check=False, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, done.args))}: {done.stderr[-1000:]}")
    return done.stdout


def _drop(_said: str) -> None:
    """Give `rounds` no figure: it takes the time."""
