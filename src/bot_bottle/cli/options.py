"""The options that several commands share, and their values."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bot_bottle.backend import BACKENDS
from bot_bottle.cli.cache_options import CACHE_OPTIONS
from bot_bottle.cli.complete_entries import complete_presets
from bot_bottle.config.settings import DEFAULT_MEMORY
from bot_bottle.host.progress import Mode, Progress
from bot_bottle.host.terminal import is_dumb
from bot_bottle.pack.options import MAX_IMAGE_SIZE, parse_image_size
from bot_bottle.workspace.spec import MODES

F = TypeVar("F", bound=Callable[..., Any])


def build_options(command: F) -> F:
    """Add docker's options for builds."""
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
            click.option(
                "--build-secret",
                "build_secrets",
                multiple=True,
                metavar="id=ID,env=...|src=...",
                help="Let the build mount a secret, as docker build --secret does; also "
                "keychain=SERVICE/ACCOUNT.",
            ),
            click.option(
                "--ssh",
                "build_ssh",
                multiple=True,
                metavar="default|ID=PATH",
                help="Let the build use your SSH agent, or this key or socket.",
            ),
            click.option("--target", metavar="STAGE", help="Build this stage of the Dockerfile."),
            click.option(
                "--platform",
                metavar="OS/ARCH",
                help="Build for this platform, which must be this machine's.",
            ),
            click.option("--no-cache", is_flag=True, help="Build without the build cache."),
            click.option("--pull", is_flag=True, help="Pull newer base images."),
        ]
    ):
        command = option(command)
    return command


def docker_compat_flags(command: F) -> F:
    """Accept docker's flags for what is always on: attached, and removed at the end."""
    for names in (("-i", "--interactive"), ("-t", "--tty"), ("--rm",)):
        option = click.option(
            *names,
            is_flag=True,
            hidden=True,
            expose_value=False,
            help="Accepted for compatibility with docker; always on.",
        )
        command = option(command)
    return command


path_argument = click.argument("path", required=False, type=click.Path(path_type=Path))

image_option = click.option("--image", metavar="REF", help="Use an existing image instead of building.")

archive_option = click.option(
    "--archive",
    type=click.Path(path_type=Path),
    metavar="FILE[:NAME]|FOLDER",
    help="Use a docker-save archive or an OCI layout instead of building; - is standard input.",
)

ask_option = click.option(
    "--ask",
    is_flag=True,
    help="Ask on the terminal before a connection is refused: yes once, always in this bottle, or no. The "
    "command then has no terminal; with -t it does, and bottle allow --ask in another one answers.",
)

yes_option = click.option("--yes", is_flag=True, help="Grant what bottle.toml requests without asking.")


cache_push_option = click.option(
    "--cache-push", is_flag=True, help="Put the artifact into the shared cache, cache.remote, too."
)


locked_option = click.option(
    "--locked", is_flag=True, help="Fail where anything differs from bottle.lock (see bottle lock)."
)


def agent_options(command: F) -> F:
    """Add what chooses an agent."""
    for option in (
        click.option(
            "--agent-from",
            type=click.Choice(["image"]),
            help="Use the agent that is in the image already, and add no layer.",
        ),
        click.option(
            "--agent",
            metavar="NAME[@VERSION]",
            help="Put this agent into the image as a layer, and let it reach its own hosts (see bottle "
            "agents); none: none, whatever bottle.toml says.",
        ),
    ):
        command = option(command)
    return command


def build_arguments(command: F) -> F:
    """Add what an image is built of, or taken from the engine: PATH, docker's options of a build, --image."""
    return path_argument(build_options(image_option(command)))


def source_arguments(command: F) -> F:
    """Add PATH, docker's options of a build, and what is used instead of building."""
    return path_argument(build_options(image_option(archive_option(agent_options(command)))))


def bottle_arguments(command: F) -> F:
    """Add all that says what a bottle is made of: its source, and docker's options of a container.

    What stands between PATH and the bottle's command is `extra`, to be refused.
    """
    extra = click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="", expose_value=True)
    options = archive_option(agent_options(prompt_option(no_state_option(bottle_options(command)))))
    return path_argument(extra(build_options(image_option(options))))


prompt_option = click.option(
    "--prompt",
    metavar="TEXT",
    help="With --agent: what it is to do, without a dialogue. -p is then this option, and not --publish.",
)

no_state_option = click.option(
    "--no-state",
    is_flag=True,
    help="Give the agent nothing of its earlier bottles of this repository, and keep nothing of this one.",
)

secret_option = click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="id=NAME,env=...|src=...",
    help="Pass a secret by reference, as docker build does; also "
    "keychain=SERVICE/ACCOUNT, host=HOST, body=true.",
)


def bottle_options(command: F) -> F:
    """Add docker's options of a container. They override the environment, bottle.toml and the defaults."""
    for option in reversed(
        [
            click.option(
                "-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable of the command."
            ),
            secret_option,
            click.option(
                "-u", "--user", envvar="BOT_BOTTLE_USER", metavar="USER[:GROUP]", help="Run as this user."
            ),
            click.option(
                "-w", "--workdir", envvar="BOT_BOTTLE_WORKDIR", metavar="FOLDER", help="Run in this folder."
            ),
            click.option(
                "--backend",
                type=click.Choice(BACKENDS),
                envvar="BOT_BOTTLE_BACKEND",
                help="A microVM (smolmachines, the default), or a hardened container (docker).",
            ),
            click.option(
                "--workspace",
                type=click.Choice(MODES),
                envvar="BOT_BOTTLE_WORKSPACE",
                help="What the bottle sees of your repository: nothing (none, the default), a private clone "
                "on its own branch (clone), or your folder itself (mount).",
            ),
            click.option(
                "--workspace-include-dirty",
                is_flag=True,
                help="Include your uncommitted changes in the clone.",
            ),
        ]
    ):
        command = option(command)
    return network_options(resource_options(command))


def resource_options(command: F) -> F:
    """Add the options for processors, memory, disk space, time, requests and tokens."""
    for option in reversed(
        [
            click.option(
                "--cpus",
                type=int,
                envvar="BOT_BOTTLE_CPUS",
                metavar="N",
                help="Number of CPUs (default: up to 4; 1 with --accel nested).",
            ),
            click.option(
                "-m",
                "--memory",
                envvar="BOT_BOTTLE_MEMORY",
                metavar="SIZE",
                help=f"Memory limit in units of 1024, for example 512m or 4g (default: {DEFAULT_MEMORY}).",
            ),
            click.option(
                "--storage",
                envvar="BOT_BOTTLE_STORAGE",
                metavar="SIZE",
                help="Disk space for what a microVM writes, in units of 1024 (default: 20g).",
            ),
            click.option(
                "--timeout",
                envvar="BOT_BOTTLE_TIMEOUT",
                metavar="TIME",
                help="End the command after this time, for example 90s, 10m or 1h30m. Exit status: 124.",
            ),
            click.option(
                "--max-requests",
                type=int,
                envvar="BOT_BOTTLE_MAX_REQUESTS",
                metavar="N",
                help="Refuse requests to the hosts of its credentials after so many.",
            ),
            click.option(
                "--max-tokens",
                type=int,
                envvar="BOT_BOTTLE_MAX_TOKENS",
                metavar="N",
                help="Refuse them when the answers have reported so many tokens, of input and output.",
            ),
        ]
    ):
        command = option(command)
    return command


def network_options(command: F) -> F:
    """Add the options for the network."""
    for option in reversed(
        [
            click.option(
                "--allow",
                multiple=True,
                metavar="HOST[:PORT]",
                shell_complete=complete_presets,
                help="Allow access to this host, *.domain, address, range or preset (default: nothing).",
            ),
            click.option(
                "--allow-host-port",
                "host_ports",
                type=click.IntRange(1, 65535),
                multiple=True,
                metavar="PORT",
                help="Let the bottle reach this port of 127.0.0.1 here, as host.bottle:PORT.",
            ),
            click.option(
                "--network",
                type=click.Choice(["none", "open"]),
                help="none: no network, overriding bottle.toml. open: unrestricted network.",
            ),
            *CACHE_OPTIONS,
            click.option(
                "-p",
                "--publish",
                "ports",
                multiple=True,
                metavar="[HOST:]GUEST",
                help="Publish a port of the bottle on 127.0.0.1.",
            ),
            click.option(
                "--git-push",
                multiple=True,
                metavar="REMOTE",
                help="Let git fetch from this remote of your repository, and push bottle/* branches to it.",
            ),
            yes_option,
        ]
    ):
        command = option(command)
    return command


engine_option = click.option(
    "--engine",
    type=click.Choice(["docker", "podman"]),
    envvar="BOT_BOTTLE_ENGINE",
    show_envvar=True,
    help="The container engine (default: the first that answers).",
)


packer_option = click.option(
    "--packer",
    type=click.Choice(["native", "smolvm"]),
    default="native",
    show_default=True,
    help="Who makes the artifact: bottle itself, or smolvm (slower; needs a VM).",
)


class _AccelChoice(click.Choice[str]):
    """The values of --accel; `emulated`, the earlier name of `nested`, is still accepted."""

    def __init__(self) -> None:
        super().__init__(["auto", "kvm", "direct", "nested"])

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the accelerator's name. Raises click.BadParameter for any other text."""
        return super().convert("nested" if value == "emulated" else value, param, ctx)


accel_option = click.option(
    "--accel",
    type=_AccelChoice(),
    default="auto",
    show_default=True,
    envvar="BOT_BOTTLE_ACCEL",
    show_envvar=True,
    help="How microVMs run: auto is kvm where KVM can boot a guest, else direct: QEMU emulates the "
    "microVM. nested: QEMU emulates a host with KVM for smolvm.",
)


max_image_size_option = click.option(
    "--max-image-size",
    type=str,
    default=MAX_IMAGE_SIZE,
    show_default=True,
    envvar="BOT_BOTTLE_MAX_IMAGE_SIZE",
    show_envvar=True,
    metavar="SIZE",
    callback=lambda _context, _option, text: parse_image_size(text),
    help="Refuse larger images (native packer); units of 1024.",
)


def engine_options(command: F) -> F:
    """Add the engine, packer, accelerator and the limit of the image's size."""
    for option in (max_image_size_option, accel_option, packer_option, engine_option):
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


def log_commands() -> None:
    """Print every command that is run on standard error, and a bug's traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("bot_bottle").setLevel(logging.INFO)


def progress(*, quiet: bool, verbose: bool) -> Progress:
    """Return the progress display for the options: a live line on a terminal unless commands are shown."""
    if verbose:
        log_commands()
    live = sys.stderr.isatty() and not is_dumb() and not verbose
    mode: Mode = "quiet" if quiet else "live" if live else "plain"
    return Progress(mode)
