"""The wheel in a bare virtual environment: a working `bottle` with the VMM in it, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bot_bottle
from tests.support.engines import CHECKOUT


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a virtual environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    into = (*pip, "--python", folder / "bin" / "python")
    subprocess.run([*into, "install", "--no-compile", CHECKOUT], check=True, timeout=600)
    return folder / "bin"


def run(bare: Path, *command: str | Path, cwd: Path, path: str = "/usr/bin:/bin") -> str:
    """Run a program of the environment, elsewhere, with nothing of ours in the environment."""
    env = {
        "PATH": path,
        "HOME": str(cwd),
        "BOT_BOTTLE_CACHE_DIR": str(cwd / "cache"),
        **{name: value for name, value in os.environ.items() if name == "DOCKER_HOST"},
    }
    done = subprocess.run(
        [bare / command[0], *command[1:]], cwd=cwd, env=env, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done
    return done.stdout.decode()


def test_an_installed_bottle_packs_with_nothing_of_the_checkout(
    bare: Path, saved: Path, tmp_path: Path
) -> None:
    assert run(bare, "bottle", "--version", cwd=tmp_path).split()[-1] == bot_bottle.__version__
    packed = json.loads(
        run(bare, "bottle", "pack", "--json", "--archive", saved, cwd=tmp_path, path="/nowhere")
    )
    assert Path(packed["path"]).stat().st_size == packed["size"]
    where = run(bare, "python", "-c", "import bot_bottle; print(bot_bottle.__file__)", cwd=tmp_path)
    assert where.startswith(str(bare.parent))


def test_an_installed_bottle_has_the_presets(bare: Path, tmp_path: Path) -> None:
    program = "from bot_bottle.network.policy import parse_policy; print(parse_policy(['pypi', 'npm']).rules)"
    assert run(bare, "python", "-c", program, cwd=tmp_path).count("Rule(") > 3


def test_an_installed_bottle_passes_doctor(bare: Path, saved: Path, tmp_path: Path) -> None:
    told = json.loads(run(bare, "bottle", "doctor", "--json", cwd=tmp_path))
    assert told["ok"] is True


def test_an_installed_package_builds_and_converts_by_its_functions(
    bare: Path, saved: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; import bot_bottle\n"
        "source = bot_bottle.Source(archive=Path(sys.argv[1]))\n"
        "print(bot_bottle.build(source)); print(bot_bottle.convert(source).image_id)\n"
        "print(all(getattr(bot_bottle, name).__doc__ for name in bot_bottle.__all__))\n"
    )
    built, converted, documented = run(bare, "python", "-c", program, saved, cwd=tmp_path).split()
    assert built == converted
    assert built.startswith("sha256:")
    assert documented == "True"
