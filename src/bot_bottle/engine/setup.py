"""Lifecycle commands of a devcontainer.json as a layer of an image.

Two stages are built on the image. The first takes the project's files, as the user who is to own them; the
second runs the commands with those files mounted, writable, so that only what they write elsewhere becomes
part of the image. BuildKit's cache knows what a mounted stage holds. buildah's does not, so there the first
stage is built on its own and mounted by its id, which changes with the files.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from bot_bottle.engine.build_names import named_for_build
from bot_bottle.engine.commands import NO_MOUNTS, BuildRequest
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.identity import EngineImage
from bot_bottle.errors import BuildError, EngineError, SpecError
from bot_bottle.host.files import read_regular
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.text import printable
from bot_bottle.secrets.build import MountOptions
from bot_bottle.workspace.lifecycle import Setup, exports, failed_command, script
from bot_bottle.workspace.spec import PLACE

_FILES = "/.bot-bottle-workspace"  # where the first stage has the project's files
_STAGE = "bot-bottle-workspace"
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?\Z")
_LONGEST_LINE = 60 << 10  # bytes; Dockerfiles may have lines of 64 KiB
_IGNORE_LIMIT = 1 << 20  # bytes
_VARIABLE = "BOT_BOTTLE_BUILD_SECRET_OF_SETUP_"


def run_setup(
    engine: Engine,
    image: EngineImage,
    setup: Setup,
    run: RunDir,
    say: Callable[[str], None],
    *,
    no_cache: bool = False,
) -> EngineImage:
    """Return the image with a layer of what the commands of `setup` write outside of the project's folder.

    Raises BuildError with the words of a command that failed, SpecError for a user that cannot be one,
    EngineError where the engine's builder cannot do it.
    """
    if engine.builder == "classic":
        raise EngineError(
            "docker's classic builder cannot run lifecycle commands",
            why=f"{setup.file} has {', '.join(setup.commands)}",
            next_step="install the buildx plugin, unset DOCKER_BUILDKIT, or use --engine podman",
        )
    user = str(engine.config(image.id).get("User") or "")
    with named_for_build(engine, image.id, run) as (base, env), engine.scratch() as folder:
        mounts = _secret_options(setup)
        mounts = MountOptions(mounts.argv, mounts.env | env)
        (folder / "Dockerfile.dockerignore").write_bytes(_ignored(setup.project))

        def build(text: str, target: str | None = None, mounts: MountOptions = NO_MOUNTS) -> EngineImage:
            (folder / "Dockerfile").write_text(text, encoding="utf-8")
            request = BuildRequest(
                setup.project, folder / "Dockerfile", target, no_cache=no_cache, mounts=mounts
            )
            return engine.build_image(request, say)

        try:
            files, commands = stages(base, setup, user)
            if engine.builder != "buildah":
                return build(files + commands, mounts=mounts)
            place = build(files, _STAGE).id.removeprefix("sha256:")
            return build(commands.replace(f"from={_STAGE},", f"from={place},", 1), mounts=mounts)
        except BuildError as error:
            raise _explained(error, setup) from error


def stages(base: str, setup: Setup, image_user: str) -> tuple[str, str]:
    """Return the lines of the two stages on the image `base`, whose own user is `image_user`.

    Raises SpecError for users and commands that no Dockerfile can have.
    """
    user = setup.user or image_user
    for each in (user, image_user):
        if each and not _USER.match(each):
            raise SpecError(
                f"{setup.file}: lifecycle commands cannot run as {printable(each, limit=80)!r}",
                next_step="name a user of the image with remoteUser",
            )
    secret_files = {name: f"/run/secrets/{_secret_id(name)}" for name in sorted(setup.private)}
    plain = {name: value for name, value in setup.env.items() if name not in setup.private}
    # on one stream, the message of a failure comes after what the command said
    text = (
        "exec 2>&1\n"
        + exports(plain, secret_files)
        + f"cd {shlex.quote(setup.folder)} || exit\n"
        + script(setup.commands)
    )
    mounts = [f"type=bind,from={_STAGE},source={_FILES},target={PLACE},rw"]
    mounts += [f"type=secret,id={_secret_id(name)},mode=0444" for name in secret_files]
    command = " ".join(["RUN", *(f"--mount={each}" for each in mounts), json.dumps(["/bin/sh", "-c", text])])
    if len(command) > _LONGEST_LINE:
        raise SpecError(
            f"{setup.file}: the lifecycle commands are too long: {_LONGEST_LINE >> 10} KiB are the most",
            next_step="put them into a script of the repository",
        )
    owner = f"--chown={user} " if user else ""
    files = f"FROM {base} AS {_STAGE}\nCOPY {owner}. {_FILES}/\n"
    as_user = f"USER {setup.user}\n" if setup.user else ""
    as_before = f"USER {image_user or 0}\n" if setup.user else ""
    return files, f"FROM {base}\n{as_user}{command}\n{as_before}"


def _secret_id(name: str) -> str:
    return f"bot-bottle-{name}"


def _secret_options(setup: Setup) -> MountOptions:
    """Return what gives a build the values that must not be in the image."""
    env = {f"{_VARIABLE}{name}": setup.env[name] for name in sorted(setup.private)}
    names = {name: name.removeprefix(_VARIABLE) for name in env}
    argv = tuple(f"--secret=id={_secret_id(own)},env={name}" for name, own in names.items())
    return MountOptions(argv, env)


def _ignored(project: Path) -> bytes:
    """Return which files of the project are left out: as its .dockerignore has it, and what git keeps."""
    try:
        data, _ = read_regular(project / ".dockerignore", _IGNORE_LIMIT)
    except FileNotFoundError:
        data = b""
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {project / '.dockerignore'}", why=str(error)) from error
    return data + b"\n**/.git\n"


def _explained(error: BuildError, setup: Setup) -> BuildError:
    found = failed_command(error.why)
    if found is None:
        what, why = f"the lifecycle commands of {setup.file} could not be run", error.why
    else:
        what = f"{found[0]} of {setup.file} failed with exit status {found[1]}"
        lines = error.why.splitlines()
        end = next(place for place, line in enumerate(lines) if failed_command(line))
        why = "\n".join(line for line in lines[:end] if not re.match(r"> \[|\S*\[?\d*/?\d*\]? ?STEP ", line))
    return BuildError(
        what,
        why=why,
        next_step="correct it; it runs while the image is built, with the repository "
        f"in {PLACE}, without .git and what .dockerignore names",
    )
