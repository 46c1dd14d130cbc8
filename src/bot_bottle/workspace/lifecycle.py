"""The lifecycle commands of a devcontainer.json: their forms, and the shell scripts that run them.

Source: https://containers.dev/implementors/json_reference/#lifecycle-scripts
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot_bottle.errors import SpecError

CREATE = ("onCreateCommand", "updateContentCommand", "postCreateCommand")
START = ("postStartCommand",)

Simple = str | tuple[str, ...]
Command = Simple | Mapping[str, Simple]
"""A command line for /bin/sh, the arguments of a program, or several of both, by name, to run in parallel."""

_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FAILED = re.compile(r"^.*?bottle: (\S[^\n]*) failed with exit status (\d+)$", re.M)
_PRELUDE = """\
failed() { echo "bottle: $1 failed with exit status $2" >&2; exit "$2"; }
joined() { wait "$2" || failed "$1" $?; }
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """Commands that run once, while the image is made, with the files of `project` in `folder`.

    They run as `user` ("": the image's), with `env`. Of the variables in `private`, the values must not be in
    the image. `file` is the configuration that they are from.
    """

    commands: Mapping[str, Command]
    file: Path
    project: Path
    folder: str
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    private: frozenset[str] = frozenset()


def parse_command(value: Any) -> Command:
    """Return a lifecycle command in one of its three forms. Raises ValueError for anything else."""
    if isinstance(value, dict):
        found = {name: _simple(each) for name, each in value.items()}
        return {name: each for name, each in found.items() if each}
    return _simple(value)


def _simple(value: Any) -> Simple:
    if isinstance(value, str) and "\0" not in value:
        return value
    if isinstance(value, list) and all(isinstance(each, str) and "\0" not in each for each in value):
        return tuple(value)
    raise ValueError("it must be a string, a list of strings, or an object of them")


def script(commands: Mapping[str, Command]) -> str:
    """Return a script for /bin/sh that runs commands one after the other, up to the first that fails.

    That one is named on standard error, and its exit status is the script's.
    """
    return _PRELUDE + _body(commands)


def before_command(commands: Mapping[str, Command]) -> tuple[str, ...]:
    """Return what is put before the arguments of a bottle's command to run others first.

    These read nothing of its input, and write to its standard error. It is not started when one fails.
    """
    if not commands:
        return ()
    text = f"{_PRELUDE}before() {{\n{_body(commands)}}}\nbefore </dev/null >&2\n" + 'exec "$@"'
    return ("/bin/sh", "-c", text, "sh")


def exports(env: Mapping[str, str], secret_files: Mapping[str, str]) -> str:
    """Return the lines of a script that set variables: to values, or to what files hold. Raises SpecError."""
    lines = []
    for name in (*env, *secret_files):
        if not _SHELL_NAME.fullmatch(name):
            raise SpecError(
                f"no lifecycle command can have the variable {name[:100]!r}",
                why="/bin/sh takes letters, digits and _ in names alone",
                next_step="give it another name",
            )
    lines += [f"export {name}={shlex.quote(value)}\n" for name, value in env.items()]
    for name, path in secret_files.items():  # the last character saves line ends that a shell would drop
        lines.append(f"{name}=$(cat {path} && echo .) || exit; export {name}=${{{name}%.}}\n")
    return "".join(lines)


def failed_command(output: str) -> tuple[str, str] | None:
    """Return which command failed, and its exit status, by what a script wrote; None if it names none."""
    found = _FAILED.search(output)
    return (found[1], found[2]) if found else None


def shown(command: Command) -> Any:
    """Return a command as JSON has it."""
    if isinstance(command, Mapping):
        return {name: shown(each) for name, each in command.items()}
    return command if isinstance(command, str) else list(command)


def _body(commands: Mapping[str, Command]) -> str:
    return "".join(_lines(key, command) for key, command in commands.items())


def _lines(key: str, command: Command) -> str:
    if not isinstance(command, Mapping):
        return f"({_exec(command)}) || failed {shlex.quote(key)} $?\n"
    names = [shlex.quote(f"{key}.{name}") for name in command]
    started = [f"({_exec(each)}) & p{place}=$!\n" for place, each in enumerate(command.values())]
    joined = [f"joined {name} $p{place}\n" for place, name in enumerate(names)]
    return "".join((*started, *joined))


def _exec(command: Simple) -> str:
    words: Iterable[str] = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    return f"exec {shlex.join(words)}"
