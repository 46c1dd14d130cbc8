"""The first page of help, `bottle --help`: shown before anything is loaded that only commands need."""

from __future__ import annotations

COMMANDS = {
    "allow": "Let a running bottle reach another host.",
    "apply": "Merge what a bottle did in its clone into your folder.",
    "bench": "Time every way from your Dockerfile to a .smolmachine.",
    "cache": "See and tidy the cache of artifacts.",
    "completion": "Print a completion script for your shell.",
    "config": "Show every setting in force, and where it came from.",
    "diff": "Show what a bottle did in its clone.",
    "doctor": "Check whether bottle run would work here.",
    "exec": "Run another command in a running bottle.",
    "fan": "Run a command in several bottles at once, each on a branch.",
    "init": "Write a bottle.toml to start from.",
    "logs": "Print what a detached bottle has printed.",
    "ls": "List the bottles.",
    "pack": "Make a .smolmachine from a Dockerfile, an image or an archive.",
    "prove": "Try the walls of a running bottle from inside.",
    "prune": "Throw away what all ended bottles left, unless work would be lost.",
    "registry": "Serve local images as a registry while a command runs.",
    "rm": "Throw away what an ended bottle left: its clone, its log.",
    "run": "Build a Dockerfile and run a command in a microVM made from it.",
    "scrub": "Look for secrets in an image or a .smolmachine before it travels.",
    "shell": "Open a shell in a running bottle.",
    "show": "Show what is known of a run: what it was made of, what it did.",
    "stop": "End running bottles.",
    "verify": "Compare a .smolmachine with the image it was made from.",
}

ABOUT = """Run an AI coding agent in a microVM made from your repository's Dockerfile.

Examples:
  bottle run                        build ./Dockerfile, run its command in it
  bottle run . -- claude --version  run another command in it
  bottle pack --image myagent       only make the .smolmachine, print its path
  bottle doctor                     what is missing for `bottle run` to work
"""

_TEXT = """Usage: bottle [OPTIONS] COMMAND [ARGS]...

{about}

Options:
  -V, --version  Show the version and exit.
  -h, --help     Show this message and exit.

Commands:
{commands}

bottle COMMAND --help has more, with examples.
"""


def text() -> str:
    """Give the page; its lines are at most 80 characters long."""
    about = (f"  {line}" if line else "" for line in ABOUT.splitlines())
    width = max(map(len, COMMANDS))
    commands = (f"  {name:<{width}}  {what}" for name, what in sorted(COMMANDS.items()))
    return _TEXT.format(about="\n".join(about), commands="\n".join(commands))
