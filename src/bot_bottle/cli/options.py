"""The options that several commands share, and what they become."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bot_bottle.errors import UsageError
from bot_bottle.image.engine import BuildRequest
from bot_bottle.progress import Mode, Progress
from bot_bottle.spec import Source, parse_build_args

F = TypeVar("F", bound=Callable[..., Any])


def build_options(command: F) -> F:
    """Add docker's options of a build."""
    for option in reversed(
        [
            click.option(
                "-f",
                "--file",
                "dockerfile",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="The Dockerfile (default: PATH/Dockerfile).",
            ),
            click.option(
                "--build-arg",
                "build_args",
                multiple=True,
                metavar="NAME[=VALUE]",
                help="Set a build argument; without a value, from the environment.",
            ),
            click.option("--target", metavar="STAGE", help="Build this stage of the Dockerfile."),
            click.option(
                "--platform", metavar="OS/ARCH", help="Build for this platform; it has to be the machine's."
            ),
            click.option("--no-cache", is_flag=True, help="Build every step anew."),
            click.option("--pull", is_flag=True, help="Ask the registry for newer base images."),
        ]
    ):
        command = option(command)
    return command


def engine_options(command: F) -> F:
    """Add the choice of engine, packer and accelerator."""
    for option in reversed(
        [
            click.option(
                "--engine",
                type=click.Choice(["docker", "podman"]),
                envvar="BOT_BOTTLE_ENGINE",
                show_envvar=True,
                help="Default: the first that answers.",
            ),
            click.option(
                "--packer",
                type=click.Choice(["native", "smolvm"]),
                default="native",
                show_default=True,
                help="native needs no VM; smolvm is the reference, slower.",
            ),
            click.option(
                "--accel",
                type=click.Choice(["auto", "kvm", "emulated"]),
                default="auto",
                show_default=True,
                envvar="BOT_BOTTLE_ACCEL",
                show_envvar=True,
                help="Where microVMs run; auto emulates where KVM cannot boot a guest.",
            ),
        ]
    ):
        command = option(command)
    return command


def output_options(command: F) -> F:
    """Add -q and -v."""
    for option in reversed(
        [
            click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
            click.option("-v", "--verbose", is_flag=True, help="Show every command that is run."),
        ]
    ):
        command = option(command)
    return command


def progress(*, quiet: bool, verbose: bool) -> Progress:
    """Make the progress that the options ask for; a terminal gets a live line, unless commands are shown."""
    if verbose:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("bot_bottle").setLevel(logging.INFO)
    mode: Mode = "quiet" if quiet else "live" if sys.stderr.isatty() and not verbose else "plain"
    return Progress(mode)


_BUILD = ("dockerfile", "build_args", "target", "platform", "no_cache", "pull")


def build_given(given: dict[str, Any]) -> dict[str, Any]:
    """Give the build options out of all that a command was given."""
    return {name: given[name] for name in _BUILD}


def source(path: Path | None, *, image: str | None, archive: Path | None, **build: Any) -> Source:
    """Make the source that the arguments name. Raises UsageError when they name two."""
    if image is None and archive is None:
        request = BuildRequest(
            context=path or Path(),
            dockerfile=build["dockerfile"],
            target=build["target"],
            platform=build["platform"],
            build_args=parse_build_args(build["build_args"]),
            no_cache=build["no_cache"],
            pull=build["pull"],
        )
        return Source(build=request)
    given = [f"--{name.replace('_', '-')}" for name, value in build.items() if value]
    if path is not None or given:
        what = "a folder" if path is not None else given[0]
        raise UsageError(f"{what} is built, --image and --archive are there already: give one of them")
    return Source(image=image, archive=archive)
