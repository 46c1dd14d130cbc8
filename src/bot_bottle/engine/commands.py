"""The command lines and environments of docker and podman. Nothing here runs anything.

Options are written `--name=value` and names are checked, so that no value is ever taken for an option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bot_bottle.engine.build_result import BuildResult
from bot_bottle.engine.limits import podman_limits
from bot_bottle.errors import EngineError, SpecError
from bot_bottle.secrets.build import BuildSecret, MountOptions, Ssh

EngineName = Literal["docker", "podman"]
SaveFormat = Literal["docker-archive", "oci-archive"]

Builder = Literal["classic", "buildkit", "buildx", "buildah"]
"""What carries out a build: docker's classic builder, the BuildKit in docker clients before 23, the buildx
plugin of later ones, or podman's buildah."""

BuildArgs = tuple[tuple[str, str | None], ...]

EMPTY_LABEL = "bot-bottle.empty"  # of an image that only exists to take over a name

_REF = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9\[\]._:/@+-]{0,1023}\Z")
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?/")
_ARG_NAME = re.compile(r"[^\s=\0]+\Z")
# variables that the engine's own client reads: a build argument's value would change what it does
_OWN_NAME = re.compile(
    r"(PATH|HOME|TMPDIR|(LD|DYLD|XDG|BUILDX|BUILDAH|CONTAINERS)_.*|GODEBUG|SSL_CERT_(FILE|DIR)"
    r"|DOCKER_(HOST|CONTEXT|CONFIG|CERT_PATH|TLS\w*|API_VERSION|BUILDKIT|DEFAULT_PLATFORM|CLI_.*|CONTENT_.*)"
    r"|BUILDKIT_(HOST|PROGRESS)|CONTAINER_(HOST|CONNECTION|SSHKEY)|STORAGE_(DRIVER|OPTS)"
    r"|REGISTRY_AUTH_FILE)\Z"
)


NO_MOUNTS = MountOptions((), {})


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build. `dockerfile` None means the one in `context`.

    A build argument without a value takes the one of our environment, as with docker. `pull` asks the
    registry for a newer base image. `mounts` are options and variables besides those of `secrets` and `ssh`.
    A Dockerfile's own `.dockerignore` has precedence over that of `context`.
    """

    context: Path
    dockerfile: Path | None = None
    target: str | None = None
    platform: str | None = None
    build_args: BuildArgs = ()
    no_cache: bool = False
    pull: bool = False
    secrets: tuple[BuildSecret, ...] = ()
    ssh: tuple[Ssh, ...] = ()
    mounts: MountOptions = field(default=NO_MOUNTS, repr=False)

    def find_dockerfile(self, engine: EngineName = "docker") -> Path:
        """Return the Dockerfile's absolute path; podman prefers a Containerfile. Raises SpecError."""
        if not self.context.is_dir():
            raise SpecError(f"no folder {self.context}", next_step="give the folder with the Dockerfile")
        names = ["Dockerfile", "Containerfile"]  # each engine's preferred name first
        if engine == "podman":
            names.reverse()
        looked_for = [self.dockerfile] if self.dockerfile else [self.context / name for name in names]
        for path in looked_for:
            if path.is_file():
                return path.absolute()
        in_context = f"Dockerfile or Containerfile in {self.context.absolute()}"
        what = f"file {self.dockerfile}" if self.dockerfile else in_context
        raise SpecError(f"there is no {what}", next_step="create one, or use another with --file")


def check_ref(ref: str) -> str:
    """Return `ref` if it can be an image's name or id. Raises SpecError."""
    if not _REF.match(ref):
        raise SpecError(
            f"invalid image reference: {ref[:200]!r}", next_step="write it as name:tag or sha256:..."
        )
    return ref


def build_argv(
    program: Path,
    builder: Builder,
    request: BuildRequest,
    dockerfile: Path,
    result: BuildResult,
    mounts: MountOptions = NO_MOUNTS,
) -> tuple[str, ...]:
    """Return the command line of a build. The values of build arguments are in `build_env`, not here."""
    argv = [str(program), "build", f"--iidfile={result.iidfile}", f"--file={dockerfile}"]
    if builder in ("buildkit", "buildx"):
        argv.append("--progress=plain")
    if builder == "buildah":
        argv += podman_limits()
        own_ignored = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
        argv += [f"--ignorefile={own_ignored}"] if own_ignored.is_file() else []
    if builder == "classic":
        argv.append("--force-rm")  # a failed step would leave its container
    if builder == "buildx":
        argv.append("--load")  # with another driver than docker's own the result would stay in its cache
        argv.append(f"--metadata-file={result.metadata}")
    if request.target:
        argv.append(f"--target={request.target}")
    if request.platform:
        argv.append(f"--platform={request.platform}")
    argv += [f"--build-arg={key}" for key, _ in request.build_args]
    argv += mounts.argv
    if request.no_cache:
        argv.append("--no-cache")
    if request.pull:
        argv.append("--pull")
    return (*argv, str(request.context.absolute()))


def check_builder(builder: Builder, request: BuildRequest, environ: Mapping[str, str]) -> None:
    """Refuse a request that the builder does not support. Raises EngineError."""
    if builder != "classic" or not (request.secrets or request.ssh):
        return
    option = "--build-secret" if request.secrets else "--ssh"
    if environ.get("DOCKER_BUILDKIT"):
        why, next_step = "DOCKER_BUILDKIT chooses that builder", "unset DOCKER_BUILDKIT"
    else:
        why, next_step = (
            "docker has BuildKit here only with its buildx plugin",
            "install the buildx plugin, 0.6 or newer, or use --engine podman",
        )
    raise EngineError(f"docker's classic builder does not support {option}", why=why, next_step=next_step)


def build_env(builder: Builder, request: BuildRequest, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a build: `environ`, the choice of builder and the values of build arguments.

    Raises SpecError for an argument whose name or value cannot be in the environment.
    """
    env = dict(environ)
    if builder == "classic":
        env["DOCKER_BUILDKIT"] = "0"
    elif builder != "buildah":
        env["DOCKER_BUILDKIT"] = "1"
        # they contain the time, so every build would have a new id
        env["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1"
    check_build_args(request.build_args, environ)
    env |= {key: value for key, value in request.build_args if value is not None}
    return env


def check_build_args(build_args: BuildArgs, environ: Mapping[str, str]) -> None:
    """Refuse arguments whose names or values `environ` cannot carry to a build. Raises SpecError."""
    for key, value in build_args:
        if not _ARG_NAME.match(key) or "\0" in (value or ""):
            raise SpecError(f"invalid build argument: {key[:100]!r}", next_step="write it as NAME=VALUE")
        if _OWN_NAME.match(key) and value is not None and environ.get(key) != value:
            raise SpecError(
                f"the build argument {key} cannot be passed: the engine's client reads this variable",
                next_step="rename the ARG in the Dockerfile, or give it a default there",
            )


def version_argv(program: Path) -> tuple[str, ...]:
    """Return the command line that prints the versions of client and server as JSON."""
    return (str(program), "version", "--format={{json .}}")


def buildx_argv(program: Path) -> tuple[str, ...]:
    """Return the command line that fails where docker does not have the buildx plugin."""
    return (str(program), "buildx", "version")


def info_argv(program: Path) -> tuple[str, ...]:
    """Return the command line that describes the engine as JSON."""
    return (str(program), "info", "--format={{json .}}")


def inspect_argv(program: Path, ref: str) -> tuple[str, ...]:
    """Return the command line that describes an image as a JSON list with one item."""
    return (str(program), "image", "inspect", check_ref(ref))


def history_argv(program: Path, ref: str) -> tuple[str, ...]:
    """Return the command line that prints each step of an image as a line of JSON."""
    return (str(program), "history", "--no-trunc", "--format={{json .}}", check_ref(ref))


def tag_argv(program: Path, src: str, dst: str) -> tuple[str, ...]:
    """Return the command line that gives the image `src` the name `dst` too."""
    return (str(program), "tag", check_ref(src), check_ref(dst))


def untag_argv(program: Path, ref: str) -> tuple[str, ...]:
    """Return podman's command line that removes a name from an image, but not the image."""
    return (str(program), "untag", check_ref(ref), ref)  # without the name it would remove all names


def import_argv(program: Path, ref: str) -> tuple[str, ...]:
    """Return the command line that makes an image of a tar on standard input, and names it `ref`."""
    return (str(program), "import", "-", check_ref(ref))


def import_empty_argv(program: Path, ref: str) -> tuple[str, ...]:
    """Return the command line that imports an empty image from a tar on standard input as `ref`."""
    return (str(program), "import", f"--change=LABEL {EMPTY_LABEL}=1", "-", check_ref(ref))


def remove_name_argv(program: Path, ref: str) -> tuple[str, ...]:
    """Return the command line that removes a name from an image, and with its last name the image."""
    return (str(program), "image", "rm", check_ref(ref))


def push_argv(program: Path, name: EngineName, ref: str) -> tuple[str, ...]:
    """Return the command line that pushes `ref`: over plain HTTP to loopback, as docker does by default."""
    plain = ("--tls-verify=false",) if name == "podman" and _LOOPBACK.match(ref) else ()
    return (str(program), "push", *plain, check_ref(ref))


def pull_argv(program: Path, name: EngineName, ref: str) -> tuple[str, ...]:
    """Return the command line that pulls `ref` from its registry, from loopback as `push_argv` does."""
    plain = ("--tls-verify=false",) if name == "podman" and _LOOPBACK.match(ref) else ()
    return (str(program), "pull", *plain, check_ref(ref))


def save_argv(
    program: Path, name: EngineName, ref: str, form: SaveFormat = "docker-archive"
) -> tuple[str, ...]:
    """Return the command line that writes an image as an archive to standard output.

    docker has one format of archives, which is both.
    """
    chosen = (f"--format={form}",) if name == "podman" else ()
    return (str(program), "save", *chosen, check_ref(ref))


def context_argv(program: Path) -> tuple[str, ...]:
    """Return the command line that prints the name of docker's current context."""
    return (str(program), "context", "show")
