"""Error messages of docker and podman, turned into errors with a next step."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from bot_bottle.engine.commands import Builder, EngineName
from bot_bottle.errors import BottleError, BuildError, EngineError
from bot_bottle.host import process
from bot_bottle.host.text import printable

# re compiles each when it is first used: most commands meet none of these errors
_NO_IMAGE = (
    r"(?i)no such image|image not known|reference does not exist|does not exist locally with the tag"
    r"|failed to get digest sha256:"
)
_DENIED = r"(?i)permission denied while trying to connect|dial unix [^\n]*permission denied"
_SILENT = (
    r"(?im)cannot connect to (the docker daemon|podman)|error during connect|unable to connect to podman"
    r"|failed to connect to the docker api|did not end within|error reading from server"
    r"|connection reset by peer"
    r"|: unexpected EOF$|^unexpected EOF$"
)

_OLD_CLIENT = r"(?i)client version \S+ is too old"
_OLD_SERVER = r"(?i)client version \S+ is too new|API version \S+ is (too old|not supported by this)"
_NO_CONTEXT = r"(?i)context \"?[^\s\"]+\"?: context not found|context \"?[^\s\"]+\"? is not found"
_INCOMPLETE = (
    r"(?i)content digest \S+: not found|unable to create manifests file|no suitable export target found"
    r"|does not provide the specified platform|cannot overwrite digest"
)
# podman copies the media types of an image's layers, and docker's manifests have none for zstd
_NO_DOCKER_FORMAT = r"(?i)zstd compression is not supported for docker images"
_OTHER_LOOPBACK = r"(?i)dial tcp (127\.0\.0\.1|\[::1\]):\d+: connect: connection refused"
# of the engine, for FROM; of apt, curl, git and pip in a step
_NO_NETWORK = (
    r"(?i)dial tcp|network is unreachable|temporary failure (in name resolution|resolving)|could not resolve"
    r"|name or service not known"
)
_NO_ROOM = r"(?i)no space left on device|disk quota exceeded"
_USER_SOCKET = r"/run/user/(\d+)/"
# the classic builder's message about a Dockerfile that is written for BuildKit
_FOR_BUILDKIT = r"(?i)requires BuildKit|Unknown flag: (mount|link|parents|exclude|checksum|network|security)"
_UNKNOWN = r"(?i)unknown instruction"
_HEREDOC = rb"(?im)^\s*(RUN|COPY|ADD)\b[^\n]*<<-?['\"]?\w"

_STEP = r"Step \d+/\d+ :|(\[\d+/\d+\] )?STEP \d+(/\d+)?:"
_NOISE = (
    r"#\d+ (sha256:|DONE|CACHED|CANCELED|\[internal\]|transferring |extracting |\.\.\.|$)"
    r"|\s*$|-{4,}$|( ---|--)> |Removing intermediate|Sending build context|subprocess exited with"
    r"|DEPRECATED: The legacy| {12}(BuildKit is currently|environment-variable|Install the buildx|https:)"
)
_PREFIX = r"(#\d+ )?(\d+\.\d+ )?"
_ESCAPE = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])"
_WHY_LINES = 20


class NoSuchImageError(EngineError):
    """The engine does not have the image: the name is wrong, or the image was removed."""


class NoDockerArchiveError(EngineError):
    """The engine cannot write the image as a docker archive, and could as an OCI archive."""


def clean_line(line: str) -> str:
    """Return the text that a line of a build's output finally shows, without colours, safe for a terminal."""
    line = re.sub(_ESCAPE, "", line).rstrip("\r").rpartition("\r")[2]
    return printable(line, keep="\t")


def refused(name: EngineName, verb: str, ref: str, words: str) -> EngineError:
    """Return the error for an engine that failed to `verb` the image `ref` ("" for none)."""
    if re.search(_DENIED, words):
        return EngineError(f"{name} cannot be used by this user", why=words, next_step=_admit(name, words))
    if re.search(_OLD_CLIENT, words):
        return EngineError(
            f"the {name} client is too old for its server", why=words, next_step=_update(name, "client")
        )
    if re.search(_OLD_SERVER, words):
        return EngineError(
            f"the {name} server is too old for its client", why=words, next_step=_update(name, "server")
        )
    if re.search(_NO_CONTEXT, words):
        return EngineError(
            f"{name} has no such context",
            why=words,
            next_step="`docker context ls` lists them; unset DOCKER_CONTEXT, or `docker context use default`",
        )
    if re.search(_SILENT, words):
        return EngineError(f"{name} does not answer", why=words, next_step=start(name, words))
    if re.search(_NO_IMAGE, words):
        return NoSuchImageError(
            f"no such image: {ref}",
            why=words,
            next_step=f"check the name with `{name} image ls`, or pull it with `{name} pull {ref}`",
        )
    message = f"{name} could not {f'{verb} {ref}'.strip()}"
    if re.search(_NO_DOCKER_FORMAT, words):
        return NoDockerArchiveError(message, why=words)
    return EngineError(message, why=words, next_step=_next_step(name, verb, ref, words))


def _next_step(name: EngineName, verb: str, ref: str, words: str) -> str:
    if re.search(_NO_ROOM, words):
        return _make_room(name)
    if verb == "push" and re.search(_OTHER_LOOPBACK, words):
        return (
            f"{name} runs in another network than bottle, as rootless docker does, and cannot reach its "
            "registry: use --transport save"
        )
    if "empty export" in words:  # docker with overlay2
        return "the image has no files, so nothing can run in it: copy some in its Dockerfile"
    if re.search(_INCOMPLETE, words):
        return (
            "the engine lacks parts of the image, perhaps those of other platforms: "
            f"`{name} pull --platform linux/ARCHITECTURE {ref or 'NAME'}`, or build it again"
        )
    return ""


def meant_endpoint() -> str:
    """Return the setting that selects a docker, as NAME=VALUE; "" without one."""
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):  # in docker's order of precedence
        if value := os.environ.get(variable):
            return f"{variable}={value}"
    return ""


def not_replaced(error: EngineError, meant: str) -> EngineError:
    """Return the error for a docker that does not answer and may not be replaced by another engine."""
    other = "choose another engine: --engine podman"
    return EngineError(
        error.message,
        why=f"{error.why}\n{meant} selects a docker, so no other engine is used",
        next_step=f"{error.next_step}; or {other}" if error.next_step else other,
    )


def not_built(name: EngineName, builder: Builder, dockerfile: Path, output: str) -> BottleError:
    """Return the error for a failed build, with the end of its own output."""
    last = "\n".join(output.splitlines()[-3:])
    if re.search(_DENIED, last) or re.search(_SILENT, last):
        return refused(name, "build", str(dockerfile), last)
    why = build_words(builder, output)
    if builder == "buildx" and (next_step := _mend_builder(why)):
        return EngineError("docker's builder does not work", why=why, next_step=next_step)
    next_step = _need_buildkit(dockerfile, why) if builder == "classic" else ""
    return BuildError(f"{dockerfile} did not build", why=why, next_step=next_step or _mend(name, why))


def _need_buildkit(dockerfile: Path, why: str) -> str:
    """Return the next step for a Dockerfile that needs BuildKit; "" for another."""
    needed = bool(re.search(_FOR_BUILDKIT, why))
    if not needed and re.search(_UNKNOWN, why):  # the lines of a heredoc, parsed as instructions
        with suppress(OSError), dockerfile.open("rb") as file:
            needed = bool(re.search(_HEREDOC, file.read(1 << 20)))
    if not needed:
        return ""
    if os.environ.get("DOCKER_BUILDKIT"):
        return "this Dockerfile needs BuildKit: unset DOCKER_BUILDKIT"
    return (
        "this Dockerfile needs BuildKit, and this docker only has its classic builder: install the buildx "
        "plugin (Debian: docker-buildx; from docker: docker-buildx-plugin), or use --engine podman"
    )


def build_words(builder: Builder, output: str) -> str:
    """Return the output of the failed step of a build, without the builder's own lines."""
    lines = [clean_line(line) for line in output.splitlines()]
    if builder in ("buildkit", "buildx"):
        return "\n".join(_buildkit_words(lines))
    steps = [index for index, line in enumerate(lines) if re.match(_STEP, line)]
    lines = lines[steps[-1] if steps else 0 :]
    return "\n".join([line for line in lines if not re.match(_NOISE, line)][-_WHY_LINES:])


def _buildkit_words(lines: list[str]) -> list[str]:
    # "#7 0.3 its output" as the step goes on, "#7 ERROR: ..."; then, between two rules, " > [2/2] RUN ..."
    # with the output again, which old clients leave out; then the error, with a part of the Dockerfile
    failed = [match[1] for line in lines if (match := re.match(r"#(\d+) ERROR", line))]
    titles = [index for index, line in enumerate(lines) if line.startswith(" > ")]
    if not failed or not titles:
        return [re.sub(_PREFIX, "", line, count=1) for line in lines if not re.match(_NOISE, line)][
            -_WHY_LINES:
        ]
    said = re.compile(rf"#{failed[-1]} \d+\.\d+ ")
    words = [re.sub(_PREFIX, "", line, count=1) for line in lines if said.match(line)][-_WHY_LINES:]
    block = lines[titles[-1] + 1 :]
    rule = next((index for index, line in enumerate(block) if line == "------"), 0)
    words = words or [re.sub(_PREFIX, "", line, count=1) for line in block[:rule]]
    return [lines[titles[-1]].strip(), *words, *(line for line in block[rule:] if not re.match(_NOISE, line))]


def _mend_builder(why: str) -> str:
    """Return the next step where buildx failed before it read a Dockerfile; "" where that is not so."""
    other = (
        "`docker buildx ls` lists the builders; BUILDX_BUILDER=NAME chooses one, `default` is docker's own"
    )
    if re.search(r"builder activity time|open [^\n]*/buildx/[^\n]*: permission denied", why):
        return "make buildx's folder writable, or set BUILDX_CONFIG to another"
    if re.search(r'no builder "[^"\n]*" found|failed to (find driver|initialize builder)', why):
        return f"choose another builder: {other}"
    if re.search(r"\[internal\] (booting buildkit|waiting for connection)", why):
        return f"start that builder, or choose another: {other}"
    return ""


def _mend(name: EngineName, why: str) -> str:
    if "no space left on device" in why.lower():
        return _make_room(name)
    if re.search(
        r"pull access denied|manifest unknown|unauthorized|no such host|failed to resolve", why, re.I
    ):
        network = ", and whether this machine reaches it" if re.search(_NO_NETWORK, why) else ""
        return f"check the image in FROM and the registry{network}; `{name} login` if it is a private one"
    if re.search(_NO_NETWORK, why):
        return (
            f"see whether this machine, and {name}'s builds, reach the network: their name servers and proxy "
            "are settings of the engine and its client"
        )
    if "exec format error" in why.lower():
        return "the image is for another processor: drop --platform, or install qemu-user-static"
    if re.search(r"slirp4netns|\bpasta\b", why):
        return (
            "the network of a rootless build does not start: it needs pasta (Debian's package passt) or "
            "slirp4netns, and /dev/net/tun, which you have to be able to open. "
            "BUILDAH_ISOLATION=chroot builds without it"
        )
    if re.search(r"listen unix [^\n]*_sock: bind: invalid argument", why):
        return _shorten_sockets(name)
    if "buildx component is missing" in why:
        return "unset DOCKER_BUILDKIT, or install docker's buildx plugin"
    return "correct the Dockerfile and run again"


def _shorten_sockets(name: EngineName) -> str:
    """Return the next step where the path of the socket that forwards an SSH agent is too long."""
    why = "a socket's path has 107 bytes at most, and the engine makes this one among its temporary files: "
    if name == "podman":
        return f"{why}set TMPDIR to a folder with a shorter path"
    # dockerd takes the folder for itself: it makes even /tmp its own
    return f"{why}start dockerd with DOCKER_TMPDIR set to a new folder with a shorter path, or its data-root"


def _make_room(name: EngineName) -> str:
    return f"free some space: `{name} system df` shows what uses it, `{name} system prune` removes leftovers"


def _update(name: EngineName, side: str) -> str:
    if name == "docker" and (version := os.environ.get("DOCKER_API_VERSION")):
        return f"unset DOCKER_API_VERSION={version}, so that client and server cannot negotiate one"
    if side == "client":
        return f"update the {name} client on this machine, which is too old for its server"
    return f"update the {name} server, or use a client of about its own version"


def start(name: EngineName, words: str = "") -> str:
    """Return how to start the engine; `words` is the error message of its client."""
    variable = "DOCKER_HOST" if name == "docker" else "CONTAINER_HOST"
    if not (meant := os.environ.get(variable)) and name == "docker":
        variable, meant = "DOCKER_CONTEXT", os.environ.get("DOCKER_CONTEXT")
    how = _start_socket(words)
    if meant:
        return f"start the engine of {variable}={meant}{how and f' ({how})'}, or unset {variable}"
    if how:
        return f"start it with {how}"
    if name == "podman":
        return "run `podman machine start`" if sys.platform == "darwin" else "run `podman info` to see why"
    if sys.platform == "darwin":
        return "start Docker Desktop"
    return "start it with `sudo systemctl start docker`; `docker context ls` shows its endpoint"


def install() -> str:
    """Return how to install an engine."""
    if sys.platform == "darwin":
        return "install Docker Desktop, or `brew install podman` and run `podman machine init --now`"
    return "install one: `sudo apt-get install docker.io`, or `sudo apt-get install podman`"


def _start_socket(words: str) -> str:
    """Return the command that starts the docker of the socket in the message; "" for the usual socket."""
    if found := re.search(_USER_SOCKET, words):
        own = "" if int(found[1]) == os.geteuid() else f", as the user {found[1]}"
        return f"`systemctl --user start docker`{own}"
    if "/.docker/desktop/" in words:
        return "`systemctl --user start docker-desktop`"
    return "`sudo snap start docker`" if _is_snap() else ""


def _is_snap() -> bool:
    program = process.find("docker")
    return program is not None and program.resolve().name == "snap"


def _admit(name: EngineName, words: str) -> str:
    if (found := re.search(_USER_SOCKET, words)) and int(found[1]) != os.geteuid():
        meant = meant_endpoint() or "the docker context"
        return f"{meant} is the engine of the user {found[1]}: run bottle as that user, or select your own"
    if name == "docker" and _is_snap():
        return (
            "run `sudo addgroup --system docker`, `sudo adduser $USER docker`, `sudo snap restart docker`, "
            "and log in again (that group has root's power), or use podman: --engine podman"
        )
    if name == "docker":
        return (
            "run `sudo usermod -aG docker $USER` and log in again (that group has root's power), "
            "or use podman: --engine podman"
        )
    return start(name)
