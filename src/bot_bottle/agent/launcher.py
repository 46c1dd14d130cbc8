"""The program by which an agent is started in a bottle: a shell script of ours in the agent's layer.

It writes the files of the profile that $HOME lacks, sets the variables of the profile that are not set, and
becomes the agent.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # profiles take long to import, and the packer and every run need constants alone
    from bot_bottle.agent.profile import Package, Profile, Seed

TOP = "/opt/bot-bottle"
BIN = f"{TOP}/bin"

_VALUE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?:: -(\d{1,3}))?\}")
HAVE_HOME = """\
if [ -z "${HOME:-}" ] || ! [ -d "$HOME" ] || ! [ -w "$HOME" ]; then
    HOME=/tmp/bottle-home
    export HOME
    mkdir -p "$HOME"
fi
"""
"""Lines of a shell script by which HOME is a folder that an agent can write to."""

_HEAD = f"""\
#!/bin/sh
# made by bot-bottle: starts an agent
{HAVE_HOME}\
last() {{ printf %s "$1" | tail -c "$2"; }}
"""


def folder(profile: Profile) -> str:
    """Return the folder in a bottle of an agent's packages. Profiles of one release have one folder."""
    return f"{TOP}/packages/{re.sub(r'[^a-z0-9.]+', '-', profile.release).strip('-.')}"


def launcher(profile: Profile, packages: list[Package]) -> str:
    """Return the script that starts an agent of these packages."""
    lines = [
        f'[ -n "${{{name}+set}}" ] || {name}={shlex.quote(value)}\nexport {name}\n'
        for name, value in profile.env.items()
    ]
    lines += [line for path, seed in profile.seed.items() for line in _seed(seed.instead or path, seed)]
    place = folder(profile)
    added = [f"{place}/{_join(each.folder, path)}" for each in packages for path in each.path]
    lines.append(f'PATH="$PATH:{":".join([BIN, *added])}"; export PATH\n')
    [program] = [each.program for each in packages if each.program]
    words = shlex.join(f"{place}/{part}" for part in program)
    return _HEAD + "".join(lines) + f'exec {words} "$@"\n'


def program_name(profile: Profile) -> str:
    """Return what an agent's program is called in an image that has one of its own."""
    [name, *_] = [each.program[-1] for each in profile.packages if each.program]
    return name.rpartition("/")[2].partition(".")[0]


def _join(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _seed(path: str, seed: Seed) -> Iterator[str]:
    """Yield the lines that write one file, which only its user can read."""
    place = f'"$HOME"/{shlex.quote(path)}'
    above = path.rpartition("/")[0]
    there = "".join(f' && [ -n "${{{name}:-}}" ]' for name in seed.needs)
    yield f"if ! [ -e {place} ]{there}; then\n"
    if above:
        yield f'    mkdir -p "$HOME"/{shlex.quote(above)}\n'
    yield f"    (umask 077 && printf %s {_expanded(seed.content.lstrip(chr(10)))} > {place})\n"
    yield "fi\n"


def _expanded(content: str) -> str:
    """Return a seed's content as one word of a shell, with the values of its variables."""
    parts, at = [], 0
    for found in _VALUE.finditer(content):
        name, count = found[1], found[2]
        value = f'"$(last "${{{name}:-}}" {count})"' if count else f'"${{{name}:-}}"'
        parts += [shlex.quote(content[at : found.start()]), value]
        at = found.end()
    return "".join([*parts, shlex.quote(content[at:])])
