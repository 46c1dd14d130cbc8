"""Names of bottles in a shell, by the completion script itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bot_bottle.bottle import names, records
from bot_bottle.cli.help import COMMANDS
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress

PROGRAM = Path(sys.executable).with_name("bottle")


@pytest.fixture
def bottles() -> Iterator[None]:
    """Three bottles: one runs and has a log, one has left its clone, of one there is but the receipt."""
    for name in ("blue", "black", "green"):
        with records.recorded(name, Progress()):
            pass
    for part in ("blue/log", "blue/held", "black/clone", "not a name/log", "-f/log"):
        (paths.bottle_dir("x").parent / part).mkdir(parents=True)
    with names.lock_name("blue"):
        yield


@cache
def script() -> str:
    """Return bash's completion script."""
    return subprocess.check_output([PROGRAM, "completion", "bash"], text=True)


def completed(*words: str) -> list[str]:
    """Give what bash offers for the last of the words."""
    line = " ".join(map(shlex.quote, ("bottle", *words)))
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _bottle_completion bottle bottle bottle"
    done = subprocess.run(
        [
            "bash",
            "--norc",
            "-c",
            f'{script()}\n{ask}\nfor each in "${{COMPREPLY[@]}}"; do echo "$each"; done',
        ],
        env={**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.usefixtures("bottles")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["exec", ""], ["blue"]),
        (["shell", "-u", "0", "b"], ["blue"]),
        (["logs", "-f", ""], ["blue"]),
        (["logs", "--egress", ""], ["black", "blue", "green"]),
        (["prove", ""], ["blue"]),
        (["allow", ""], ["blue"]),
        (["allow", "blue", "py"], ["pypi"]),
        (["allow", "--remove", "blue", ""], []),
        (["run", "--allow", "c"], ["crates"]),
        (["stop", ""], ["blue"]),
        (["stop", "blue", ""], []),
        (["rm", "bl"], ["black", "blue"]),
        (["rm", "black", ""], ["blue"]),
        (["diff", ""], ["black"]),
        (["apply", ""], ["black"]),
        (["forward", ""], ["blue"]),
        (["run", "--git"], ["--git-push"]),
        (["show", ""], ["black", "blue", "green"]),
        (["show", "x"], []),
        (["exec", "blue", "--", ""], []),
        (["sh"], ["shell", "show"]),
        (["run", "--tw"], ["--twin"]),
    ],
    ids=" ".join,
)
def test_bash_offers_what_the_command_can_take(words: list[str], offered: list[str]) -> None:
    assert completed(*words) == offered


@pytest.mark.parametrize(
    "command",
    ["exec", "show", *(pytest.param(name, marks=pytest.mark.slow) for name in ("logs", "diff", "rm"))],
)
def test_where_there_is_nothing_or_no_right_nothing_is_said(command: str, tmp_path: Path) -> None:
    assert completed(command, "") == []
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "file"))
        patch.setenv("BOT_BOTTLE_CACHE_DIR", str(tmp_path / "file"))
        assert completed(command, "") == []


def test_no_name_is_held_or_made_for_it(cache_dir: Path) -> None:
    assert completed("stop", "") == []
    assert not cache_dir.exists()


def test_all_commands_are_offered_and_none_is_loaded() -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*(m for m in sys.modules if m.startswith('bot_bottle.cli.'))))\n"
        "from bot_bottle.cli.main import run; run([])\n"
    )
    env = {"_BOTTLE_COMPLETE": "bash_complete", "COMP_WORDS": "bottle ", "COMP_CWORD": "1"}
    told = subprocess.check_output([sys.executable, "-c", program], env=env, text=True)
    *offered, loaded = told.splitlines()
    assert offered == [f"plain,{name}" for name in sorted(COMMANDS)]
    assert set(loaded.split()) == {"bot_bottle.cli.main", "bot_bottle.cli.help"}
