"""What docker and podman say when they fail, made into errors with a next step."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from bot_bottle.engine.commands import Builder, EngineName
from bot_bottle.errors import BottleError, BuildError, EngineError
from bot_bottle.host.text import printable

_NO_IMAGE = re.compile(
    r"no such image|image not known|reference does not exist|does not exist locally with the tag"
    r"|failed to get digest sha256:",
    re.I,
)
_DENIED = re.compile(r"permission denied while trying to connect|dial unix [^\n]*permission denied", re.I)
_SILENT = re.compile(
    r"cannot connect to (the docker daemon|podman)|error during connect|failed to connect to the docker api"
    r"|unable to connect to podman|did not end within|error reading from server|connection reset by peer"
    r"|: unexpected EOF$|^unexpected EOF$",
    re.I | re.M,
)

_STEP = re.compile(r"Step \d+/\d+ :|(\[\d+/\d+\] )?STEP \d+(/\d+)?:")
_NOISE = re.compile(
    r"#\d+ (sha256:|DONE|CACHED|CANCELED|\[internal\]|transferring |extracting |\.\.\.|$)"
    r"|\s*$|-{4,}$|( ---|--)> |Removing intermediate|Sending build context|subprocess exited with"
    r"|DEPRECATED: The legacy| {12}(BuildKit is currently|environment-variable|Install the buildx|https:)"
)
_PREFIX = re.compile(r"(#\d+ )?(\d+\.\d+ )?")
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])")
_WHY_LINES = 20


class NoSuchImageError(EngineError):
    """The engine does not hold the image: the name is wrong, or somebody removed it."""


def clean_line(line: str) -> str:
    """Return what a line of a build's output shows at last, without colours, safe for a terminal."""
    line = _ESCAPE.sub("", line).rstrip("\r").rpartition("\r")[2]
    return printable(line, keep="\t")


def refused(name: EngineName, verb: str, ref: str, words: str) -> EngineError:
    """Explain why the engine failed to `verb` the image `ref` ("" where it is about none)."""
    if _DENIED.search(words):
        return EngineError(f"{name} may not be used by this user", why=words, next_step=_admit(name))
    if _SILENT.search(words):
        return EngineError(f"{name} does not answer", why=words, next_step=start(name))
    if _NO_IMAGE.search(words):
        return NoSuchImageError(
            f"no such image: {ref}",
            why=words,
            next_step=f"check the name with `{name} image ls`, or get it with `{name} pull {ref}`",
        )
    return EngineError(f"{name} could not {f'{verb} {ref}'.strip()}", why=words)


def not_built(name: EngineName, builder: Builder, dockerfile: Path, output: str) -> BottleError:
    """Explain a failed build with the end of its own output."""
    last = "\n".join(output.splitlines()[-3:])
    if _DENIED.search(last) or _SILENT.search(last):
        return refused(name, "build", str(dockerfile), last)
    why = build_words(builder, output)
    return BuildError(f"{dockerfile} did not build", why=why, next_step=_mend(name, why))


def build_words(builder: Builder, output: str) -> str:
    """Give what the failing step of a build said, without the builder's own noise."""
    lines = [clean_line(line) for line in output.splitlines()]
    if builder in ("buildkit", "buildx"):
        return "\n".join(_buildkit_words(lines))
    steps = [index for index, line in enumerate(lines) if _STEP.match(line)]
    lines = lines[steps[-1] if steps else 0 :]
    return "\n".join([line for line in lines if not _NOISE.match(line)][-_WHY_LINES:])


def _buildkit_words(lines: list[str]) -> list[str]:
    # "#7 0.3 its words" as the step goes on, "#7 ERROR: ..."; then, between two rules, " > [2/2] RUN ..."
    # with the words again, which old clients leave out; then the error, with a piece of the Dockerfile
    failed = [match[1] for line in lines if (match := re.match(r"#(\d+) ERROR", line))]
    titles = [index for index, line in enumerate(lines) if line.startswith(" > ")]
    if not failed or not titles:
        return [_PREFIX.sub("", line, count=1) for line in lines if not _NOISE.match(line)][-_WHY_LINES:]
    said = re.compile(rf"#{failed[-1]} \d+\.\d+ ")
    words = [_PREFIX.sub("", line, count=1) for line in lines if said.match(line)][-_WHY_LINES:]
    block = lines[titles[-1] + 1 :]
    rule = next((index for index, line in enumerate(block) if line == "------"), 0)
    words = words or [_PREFIX.sub("", line, count=1) for line in block[:rule]]
    return [lines[titles[-1]].strip(), *words, *(line for line in block[rule:] if not _NOISE.match(line))]


def _mend(name: EngineName, why: str) -> str:
    if "no space left on device" in why.lower():
        return f"make room: `{name} system df` shows what takes it, `{name} system prune` removes leftovers"
    if re.search(
        r"pull access denied|manifest unknown|unauthorized|no such host|failed to resolve", why, re.I
    ):
        return f"check the image in FROM and the way to its registry; `{name} login` if it is a private one"
    if "exec format error" in why.lower():
        return "the image is for another processor: leave --platform out, or install qemu-user-static"
    if "buildx component is missing" in why:
        return "unset DOCKER_BUILDKIT, or install docker's buildx plugin"
    return "correct the Dockerfile and run again"


def start(name: EngineName) -> str:
    """Say how the engine is started."""
    variable = "DOCKER_HOST" if name == "docker" else "CONTAINER_HOST"
    if host := os.environ.get(variable):
        return f"start the engine that {variable}={host} names, or unset {variable}"
    if name == "podman":
        return "run `podman machine start`" if sys.platform == "darwin" else "run `podman info` to see why"
    if sys.platform == "darwin":
        return "start Docker Desktop"
    return "start it with `sudo systemctl start docker`; `docker context ls` shows where it is looked for"


def install() -> str:
    """Say how to get an engine."""
    if sys.platform == "darwin":
        return "install Docker Desktop, or `brew install podman` and run `podman machine init --now`"
    return "install one: `sudo apt-get install docker.io`, or `sudo apt-get install podman`"


def _admit(name: EngineName) -> str:
    if name == "docker":
        return (
            "run `sudo usermod -aG docker $USER` and log in again (that group has root's power), "
            "or use podman: --engine podman"
        )
    return start(name)
