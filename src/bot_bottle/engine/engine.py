"""docker and podman through their command lines, so that contexts, DOCKER_HOST and logins work.

Every method raises EngineError with the engine's own message when the engine refuses.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot_bottle.engine import commands as argv
from bot_bottle.engine import errors as words
from bot_bottle.engine.build_result import BuildResult
from bot_bottle.engine.builder import choose_builder, has_buildx
from bot_bottle.engine.commands import Builder, BuildRequest, EngineName
from bot_bottle.engine.containers import Containers, engine_record
from bot_bottle.engine.errors import NoSuchImageError
from bot_bottle.engine.identity import EngineImage, fingerprint, image_of
from bot_bottle.engine.info import part
from bot_bottle.engine.limits import podman_limits
from bot_bottle.engine.names import ImageNames
from bot_bottle.errors import EngineError, ImageError, Interrupted, UsageError
from bot_bottle.host import paths, process, rundir
from bot_bottle.host.redact import redacted
from bot_bottle.image.spec import Digest
from bot_bottle.secrets.build import MountOptions, resolve_mounts
from bot_bottle.structs import replace
from bot_bottle.tar.stream import TarStream

__all__ = ["BuildRequest", "Engine", "EngineName", "NoSuchImageError", "find_engine"]

# timeouts in seconds; podman's first call sets up its storage and is slow on a busy machine
_ANSWERS_WITHIN = {"docker": 10.0, "podman": 60.0}
_ANSWER_LIMIT = 16 << 20  # bytes of JSON; the description of an image has some kB


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that has answered. Made by `find_engine`. `timeout` (s) is for short commands.

    `fixed_builder` carries out builds; None: buildx does, if it exists. Answers of the engine are cached.
    """

    name: EngineName
    program: Path
    client_version: str
    server_version: str
    fixed_builder: Builder | None
    timeout: float = 60.0
    _answers: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _configs: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def builder(self) -> Builder:
        """The builder of its builds."""
        if self.fixed_builder is not None:
            return self.fixed_builder
        if "builder" not in self._answers:
            self._answers["builder"] = "buildx" if has_buildx(self.program, self.timeout) else "classic"
        builder: Builder = self._answers["builder"]
        return builder

    @property
    def buildkit(self) -> bool:
        """Whether BuildKit carries out the builds."""
        return self.builder in ("buildkit", "buildx")

    def build(self, request: BuildRequest, on_line: Callable[[str], None]) -> str:
        """Build an image and return its id, as `build_image` does."""
        return self.build_image(request, on_line).id

    def build_image(self, request: BuildRequest, on_line: Callable[[str], None]) -> EngineImage:
        """Build an image; each line of the build's output goes to `on_line`.

        Raises SpecError when there is no Dockerfile, SecretError when a secret is missing, BuildError with
        the output of the failed step.
        """
        dockerfile = request.find_dockerfile(self.name)
        argv.check_builder(self.builder, request, os.environ)
        mounts = resolve_mounts(request.secrets, request.ssh)
        mounts = MountOptions(request.mounts.argv + mounts.argv, request.mounts.env | mounts.env)
        env = argv.build_env(self.builder, request, os.environ) | mounts.env
        with self.scratch() as folder:
            result = BuildResult(folder / "image-id", folder / "metadata")
            command = argv.build_argv(self.program, self.builder, request, dockerfile, result, mounts)
            done = self._follow(command, "build", str(dockerfile), on_line, env)
            if done.code:
                raise words.not_built(self.name, self.builder, dockerfile, done.complaint)
            return self._built(result, done.complaint)

    def _built(self, result: BuildResult, complaint: str) -> EngineImage:
        """Return the image of a build: by the first of the digests in its result that the engine knows.

        Which of them it knows depends on its image store and on buildx's version.
        """
        missing: NoSuchImageError | None = None
        digests, config = result.digests()
        for digest in digests:
            try:
                return replace(self.image(_id(self.name, digest)), config_digest=config)
            except NoSuchImageError as error:
                missing = missing or error
        raise missing or EngineError(
            f"{self.name} did not report which image it built",
            why=complaint,
            next_step="build it with `docker build --tag NAME`, and use --image NAME",
        )

    def inspect(self, ref: str) -> dict[str, Any]:
        """Return the engine's description of an image. Raises NoSuchImageError."""
        done = self._run(argv.inspect_argv(self.program, ref), "inspect", ref)
        answer = _json(self.name, done.stdout)
        if not isinstance(answer, list) or len(answer) != 1 or not isinstance(answer[0], dict):
            raise EngineError(f"{self.name} returned an invalid description of image {ref}")
        return answer[0]

    def image(self, ref: str) -> EngineImage:
        """Return what identifies an image. Raises NoSuchImageError."""
        inspected = self.inspect(ref)
        image = image_of(_id(self.name, str(inspected.get("Id", ""))), inspected)
        self._configs[image.id] = part(inspected, "Config")
        return image

    def config(self, image_id: str) -> dict[str, Any]:
        """Return the engine's description of the configuration of an image, by its id.

        Raises NoSuchImageError, unless it was asked about the image before.
        """
        if image_id not in self._configs:
            image_id = self.image(image_id).id
        return self._configs[image_id]

    def fingerprint(self, image: EngineImage) -> str:
        """Return a value that identifies an image's config, where its digest is not known.

        Raises NoSuchImageError.
        """
        done = self._run(argv.history_argv(self.program, image.id), "print the history of", image.id)
        steps = [_json(self.name, line) for line in done.stdout.splitlines()]
        return fingerprint(image, [step for step in steps if isinstance(step, dict)])

    def image_id(self, ref: str) -> str:
        """Return the engine's id of an image, `sha256:...`. Raises NoSuchImageError."""
        return self.image(ref).id

    def size(self, ref: str) -> int:
        """Return the approximate size of the image in bytes (0: not known), to measure progress by."""
        size = self.inspect(ref).get("Size")
        return size if isinstance(size, int) and size > 0 else 0

    def exists(self, ref: str) -> bool:
        """Return whether the engine has the image."""
        try:
            self.inspect(ref)
        except NoSuchImageError:
            return False
        return True

    def tag(self, src: str, dst: str) -> None:
        """Add the name `dst` to the image `src`. Raises NoSuchImageError."""
        self._run(argv.tag_argv(self.program, src, dst), "tag", src)

    def untag(self, ref: str) -> None:
        """Remove the name `ref`, but not its image; does nothing if there is no such name."""
        self.names.untag(ref)

    @property
    def names(self) -> ImageNames:
        """The object that removes names of its images."""
        return ImageNames(
            self.program, self.name, lambda argv, data: self._run(argv, "untag", argv[-1], data)
        )

    def push(self, ref: str, on_line: Callable[[str], None]) -> None:
        """Push the image to the registry in its name."""
        done = self._follow(argv.push_argv(self.program, self.name, ref), "push", ref, on_line)
        if done.code:
            raise words.refused(self.name, "push", ref, done.complaint)

    def pull(self, ref: str, on_line: Callable[[str], None]) -> None:
        """Pull the image from its registry, or a newer one of that name. Raises EngineError."""
        done = self._follow(argv.pull_argv(self.program, self.name, ref), "pull", ref, on_line)
        if done.code:
            raise words.refused(self.name, "pull", ref, done.complaint)

    def write_archive(self, ref: str, write: Callable[[TarStream], None]) -> None:
        """Save the image, and call `write` to write the archive to a file.

        It is called again, with an OCI archive, if this image cannot be in a docker archive: that is slower,
        as podman compresses the layers. Raises EngineError, and what `write` raises.
        """
        try:
            with self.save(ref) as stream:
                write(stream)
        except words.NoDockerArchiveError:
            with self.save(ref, "oci-archive") as stream:
                write(stream)

    @contextmanager
    def save(self, ref: str, form: argv.SaveFormat = "docker-archive") -> Iterator[TarStream]:
        """Yield the image as a docker archive, a stream that is stored nowhere.

        When the engine fails, the block ends with its EngineError, whatever the reader did with the part that
        came. A block may stop reading before the end.
        """
        command = argv.save_argv(self.program, self.name, ref, form)
        misread: BaseException | None = None
        try:
            with process.reading(command) as source:
                stream = TarStream(source)
                try:
                    yield stream
                except BaseException as error:
                    ours = isinstance(error, Interrupted) or not isinstance(error, Exception)
                    if ours or not stream.at_end():
                        source.close()  # a client that waits to write ignores signals
                        raise
                    misread = error  # decided at the end: an engine that failed is the cause
                ended = stream.at_end()
        except process.CommandFailed as error:
            if error.done.argv != command:
                raise  # a program of the block's own
            raise words.refused(self.name, "save", ref, _said(error)) from error
        if ended and not stream.whole:
            raise EngineError(
                f"{self.name} wrote an incomplete archive of {ref}", next_step="try again"
            ) from misread
        if misread:
            raise misread

    def info(self) -> dict[str, Any]:
        """Return the engine's description of itself."""
        if "info" not in self._answers:
            info = _json(self.name, self._run(argv.info_argv(self.program), "describe itself").stdout)
            if not isinstance(info, dict):
                raise EngineError(f"{self.name} returned an invalid description of itself")
            self._answers["info"] = info
        answer: dict[str, Any] = self._answers["info"]
        return answer

    @property
    def containers(self) -> Containers:
        """Return its containers, by clients with our current environment."""
        # podman warns of what it finds on this machine, such as cgroup v1
        quiet = ["--log-level=error"] if self.name == "podman" else []
        return Containers(self.program, dict(os.environ), quiet=quiet)

    def to_record(self) -> dict[str, Any]:
        """Return what a record in a run folder needs for `Containers.from_record`."""
        return engine_record(self.program)

    def limit_options(self) -> list[str]:
        """Return the options of `create` and `run` for resource limits of a container."""
        return podman_limits() if self.name == "podman" else []

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder that the engine's client can read and write, removed when the block ends."""
        if (home := paths.home_dir()) and self.program.resolve().name == "snap":  # it has its own /tmp
            common = home / "snap" / "docker" / "common"
            common.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=common) as name:
                yield Path(name)
        else:
            with rundir.run_dir() as run:
                yield run.path

    def _run(
        self, command: tuple[str, ...], verb: str, ref: str = "", input: bytes = b""
    ) -> process.Completed:
        try:
            return process.run(command, timeout=self.timeout, input=input)
        except process.CommandFailed as error:
            raise words.refused(self.name, verb, ref, _said(error)) from error

    def _follow(
        self,
        command: tuple[str, ...],
        verb: str,
        ref: str,
        on_line: Callable[[str], None],
        env: Mapping[str, str] | None = None,
    ) -> process.Completed:
        try:
            return process.follow(command, lambda line: on_line(redacted(words.clean_line(line))), env=env)
        except process.CommandFailed as error:  # it could not be started
            raise words.refused(self.name, verb, ref, _said(error)) from error


def find_engine(
    choice: str | None = None,
    *,
    timeout: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Return the engine that `choice` or BOT_BOTTLE_ENGINE names, else the first of docker, podman to answer.

    `timeout` is how long each may take to answer, in seconds (None: as long as each may need). `say` is
    called with a message while an engine is waited for, and when podman is used instead of docker, which
    never happens where DOCKER_HOST or DOCKER_CONTEXT select a docker. Raises EngineError that says what to
    install or start, UsageError for a choice that is neither.
    """
    choice = choice or os.environ.get("BOT_BOTTLE_ENGINE") or None
    if choice not in (None, "docker", "podman"):
        raise UsageError(f"unknown engine: {choice[:100]!r}", next_step="choose docker or podman")
    problems: list[EngineError] = []
    for name in (choice,) if choice else ("docker", "podman"):
        program = process.find(name)
        if program is None:
            continue
        try:
            with _waiting(name, say):
                found = _ask(program, timeout or _ANSWERS_WITHIN[name])
        except EngineError as error:
            problems.append(error)
            if name == "docker" and (meant := words.meant_endpoint()) and not choice:
                raise words.not_replaced(error, meant) from error
        else:
            for problem in problems:
                say(f"{problem.message}: using {found.name} ({problem.why.partition(chr(10))[0]})")
            return found
    if not problems:
        what = f"{choice} is not installed" if choice else "no container engine: no docker, no podman"
        raise EngineError(what, next_step=words.install())
    first, *others = problems
    for other in others:
        first.why += f"\n{other.message}: {other.why}"
    raise first


@contextmanager
def _waiting(name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Print what is waited for if the block takes longer than a second."""
    timer = threading.Timer(1.0, say, [f"waiting for {name} to answer"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _ask(program: Path, timeout: float) -> Engine:
    name: EngineName = "podman" if program.name == "podman" else "docker"
    try:
        done = process.run(argv.version_argv(program), timeout=timeout)
    except process.CommandFailed as error:
        raise words.refused(name, "print its version", "", _said(error)) from error
    answer = _json(name, done.stdout)
    client, server = part(answer, "Client"), part(answer, "Server")
    if "APIVersion" in client:  # podman's spelling: the `docker` command may be podman under another name
        found = process.find("podman") or program
        version = str(client.get("Version", ""))
        return Engine("podman", found, version, str(server.get("Version") or version), "buildah")
    versions = str(client.get("Version", "")), str(server.get("Version", ""))
    if not all(versions):
        raise EngineError(f"{name} does not answer", why=done.complaint, next_step=words.start(name))
    components = server.get("Components")
    served_by_podman = "Podman" in json.dumps(components)
    # to find out starts another program, and only a build needs it
    with_buildx, without = (
        choose_builder(*versions, served_by_podman, there, os.environ) for there in (True, False)
    )
    return Engine("docker", program, *versions, with_buildx if with_buildx == without else None)


def _said(error: process.CommandFailed) -> str:
    complaint = error.done.complaint
    return complaint if complaint and 0 < error.done.code != 127 else f"{error.message}\n{complaint}"


def _id(name: EngineName, text: str) -> str:
    try:
        return str(Digest(text if ":" in text else f"sha256:{text}"))
    except ImageError as error:
        raise EngineError(f"{name} returned an invalid image id", why=error.message) from error


def _json(name: EngineName, raw: bytes) -> Any:
    if len(raw) > _ANSWER_LIMIT:
        raise EngineError(f"{name} returned more than {_ANSWER_LIMIT >> 20} MiB")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        start = raw[:200].decode("utf-8", "replace")
        raise EngineError(f"{name} returned something that is not JSON", why=f"{error}\n{start}") from error
