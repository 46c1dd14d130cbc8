"""The page of `bottle --help`, printed without loading any command."""

from __future__ import annotations

COMMANDS = {
    "node": "Say how Ray is started for bottles on this machine.",
    "opencode": "Let opencode work in a microVM on a clone of the repository.",
    "gemini": "Let the Gemini CLI work in a microVM on a clone of the repository.",
    "codex": "Let Codex work in a microVM on a clone of the repository.",
    "claude": "Let Claude Code work in a microVM on a clone of the repository.",
    "agents": "List the agents, show what one may do, and update one.",
    "allow": "Let a running bottle reach another host.",
    "apply": "Merge a bottle's changes into your working tree.",
    "bench": "Time every method of making a .smolmachine from your image.",
    "cache": "List, explain and prune the cache of artifacts.",
    "check": "Check from inside what a running bottle can reach.",
    "completion": "Print a completion script for your shell.",
    "config": "Show every setting in force, and where it came from.",
    "diff": "Show a bottle's changes.",
    "doctor": "Check whether bottle run would work here.",
    "exec": "Run another command in a running bottle.",
    "fan": "Run a command in several bottles at once, each on a branch.",
    "forward": "Push the branches of a bottle that are held to their remotes.",
    "init": "Write a bottle.toml to start from.",
    "learn": "Run a command, and say which hosts it would have needed.",
    "lock": "Pin what a bottle is made of in bottle.lock.",
    "login": "Use an agent's login in bottles, or list the logins.",
    "logout": "Forget an agent's login.",
    "logs": "Print the output of a detached bottle.",
    "ls": "List the bottles.",
    "pack": "Make a .smolmachine from a Dockerfile, an image or an archive.",
    "prune": "Remove what exited bottles left, unless work would be lost.",
    "pull": "Pull a .smolmachine from an OCI registry.",
    "push": "Push a .smolmachine to an OCI registry, signed if you like.",
    "registry": "Serve local images as a registry while a command runs.",
    "rm": "Remove what an exited bottle left: its clone and its log.",
    "run": "Build a Dockerfile and run a command in a microVM made from it.",
    "scan": "Find secrets in an image or a .smolmachine before you share it.",
    "shell": "Open a shell in a running bottle.",
    "show": "Show the record of a run: image, settings, commits, exit status.",
    "stop": "Stop running bottles.",
    "verify": "Compare a .smolmachine with the image it was made from.",
}

ALIASES = {"inspect": "show", "prove": "check", "scrub": "scan"}
"""Other names of commands: docker's, and those of earlier versions. They work and are not listed."""

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
  -v, --verbose  Show every command that is run, and a bug's traceback.
  -V, --version  Show the version and exit.
  -h, --help     Show this message and exit.

Commands:
{commands}

bottle COMMAND --help has more, with examples.
"""


def text() -> str:
    """Return the page; its lines have at most 80 characters."""
    about = (f"  {line}" if line else "" for line in ABOUT.splitlines())
    width = max(map(len, COMMANDS))
    commands = (f"  {name:<{width}}  {what}" for name, what in sorted(COMMANDS.items()))
    return _TEXT.format(about="\n".join(about), commands="\n".join(commands))
