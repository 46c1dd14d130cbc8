"""Container engines that misbehave: small shell scripts on PATH."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bot_bottle.engine.commands import Builder, EngineName
from bot_bottle.engine.engine import Engine

Fake = Callable[[str, str], Path]
"""Puts a script of a name and a body on PATH, and gives its path."""


def says(answer: str) -> str:
    """A script that says this."""
    return f"cat <<'END'\n{answer}\nEND"


def fails(words: str, code: int = 1) -> str:
    """A script that complains and fails."""
    return f"cat >&2 <<'END'\n{words}\nEND\nexit {code}"


def engine(program: Path, name: EngineName = "docker", builder: Builder = "classic") -> Engine:
    """An engine that has answered, and is this program."""
    return Engine(name, program, "20.10.24", "20.10.24", builder, timeout=10)


_NONE = """sed 's/"NetworkMode": "[^"]*"/"NetworkMode": "none"/'"""


def dropping_network(folder: Path, real: Path, *, lies: bool) -> None:
    """Make a docker that forgets `--network` when it makes a container; `lies`: and says that it has not."""
    inspected = f'case "$*" in "container inspect bottle-"*) "{real}" "$@" | {_NONE}; exit ;; esac\n'
    fake = folder / "docker"
    fake.write_text(
        f"""#!/bin/sh
{inspected if lies else ""}if [ "$1" = create ]; then
  for word; do
    shift
    case $word in --network=*) ;; *) set -- "$@" "$word" ;; esac
  done
fi
exec "{real}" "$@"
"""
    )
    fake.chmod(0o755)


def changing_options(folder: Path, real: Path, taken: str, given: str) -> None:
    """Make an engine that makes containers without the options that begin with `taken`, but with `given`."""
    fake = folder / real.name
    fake.write_text(
        f"""#!/bin/sh
if [ "$1" = create ]; then
  shift
  set -- "$@" end-of-options
  while [ "$1" != end-of-options ]; do
    case $1 in {taken}*) ;; *) set -- "$@" "$1" ;; esac
    shift
  done
  shift
  exec "{real}" create {given} "$@"
fi
exec "{real}" "$@"
"""
    )
    fake.chmod(0o755)
