"""`bottle registry`: serve local images while a command runs or until Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bot_bottle.bottle.gc import run_context
from bot_bottle.cli import options
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.engine.source import Source
from bot_bottle.errors import Interrupted, UsageError
from bot_bottle.host import process
from bot_bottle.host.progress import Progress
from bot_bottle.registry.ephemeral import Reference, Registry, ephemeral_registry
from bot_bottle.registry.image import name_of

_HELP = """Serve local images from a registry on 127.0.0.1 while CMD runs; without CMD, until Ctrl-C.

For tools that only accept registry references. IMAGE is an image in the engine, ARCHIVE a docker-save archive
or an OCI layout. In CMD, {ref} is replaced by the image's reference (by digest; {ref1}, {ref2}, ... with
several), {registry} by the address and {prefix} by the prefix of every repository. CMD also gets them in its
environment: BOT_BOTTLE_REF, BOT_BOTTLE_REF1, ..., BOT_BOTTLE_REGISTRY, BOT_BOTTLE_PREFIX. bottle exits with
CMD's exit status.

The registry speaks plain HTTP. Anyone who can read CMD's arguments can pull while it runs, and push with
--push; only you and root can read its environment.

\b
Examples:
  bottle registry myagent -- krunvm create {ref}
  bottle registry saved.tar -- skopeo inspect --tls-verify=false docker://{ref}
  bottle registry --push -- crane push --insecure app.tar {registry}/{prefix}/app
  bottle registry --json myagent other.tar
"""

_PLACE = re.compile(r"\{(ref\d*|registry|prefix)\}")
_PATH = re.compile(r"[./~]|.*\.(tar|oci)\Z")


class _RegistryCommand(click.Command):
    """Separates the arguments after `--`: they are the command to run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first `--` and parse what is before it."""
        split = args.index("--") if "--" in args else len(args)
        ctx.obj = tuple(args[split + 1 :])
        return super().parse_args(ctx, args[:split])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line with the command."""
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


@click.command("registry", cls=_RegistryCommand, help=_HELP)
@click.argument("sources", nargs=-1, metavar="[IMAGE | ARCHIVE]...")
@click.option("--push", is_flag=True, help="Accept pushes, to any repository under the prefix.")
@click.option(
    "--form",
    type=click.Choice(["embedded", "container"]),
    default="embedded",
    show_default=True,
    help="embedded: a registry in bottle itself; container: the registry image.",
)
@options.engine_option
@click.option("--json", "as_json", is_flag=True, help="Print address, prefix and references as JSON.")
@options.output_options
@click.pass_obj
def command(cmd: tuple[str, ...], /, sources: tuple[str, ...], as_json: bool, **given: Any) -> int:
    """Serve, and run the command or wait."""
    if not sources and not given["push"]:
        raise UsageError("there is nothing to serve", next_step="give an image or an archive, or --push")
    if as_json and cmd:
        raise UsageError(
            "--json cannot be used with CMD: both write to standard output", next_step="drop one"
        )
    _check_places(cmd, len(sources))
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    images = [source for source in sources if not _is_archive(source)]
    engine = (
        find_engine(given["engine"], say=progress.note) if images or given["form"] == "container" else None
    )
    with _open(given["form"], given["push"], engine) as registry:
        references = [_load(registry, engine, source, progress) for source in sources]
        if cmd:
            return _run(cmd, _values(registry, references))
        return _wait(_json(registry, sources, references) if as_json else _plain(registry, references))


@contextmanager
def _open(form: Any, push: bool, engine: Engine | None) -> Iterator[Registry]:
    with run_context() as run, ephemeral_registry(form, push=push, run=run, engine=engine) as registry:
        yield registry


def _is_archive(source: str) -> bool:
    """Return whether it is an archive, not the name of an image. Raises UsageError for no such path."""
    if Path(source).exists() or Source.of_archive(source).archive_name is not None:
        return True
    if _PATH.match(source):
        raise UsageError(f"no such archive: {source}")
    return False


def _load(registry: Registry, engine: Engine | None, source: str, progress: Progress) -> Reference:
    with progress.stage("load") as stage:
        stage.say(source)
        if engine is None or _is_archive(source):
            found = Source.of_archive(source)
            assert found.archive is not None  # noqa: S101 - set by of_archive
            reference = registry.load(
                found.archive, name_of(found.archive_name or source), found.archive_name
            )
        else:
            reference = registry.load_image(engine, source, name_of(source), stage.advance)
        stage.conclude(str(reference))
    return reference


def _values(registry: Registry, references: Sequence[Reference]) -> dict[str, str]:
    """Return the placeholders for CMD and their values."""
    values = {"registry": registry.address, "prefix": registry.prefix}
    values |= {f"ref{number}": str(each) for number, each in enumerate(references, 1)}
    if references:
        values["ref"] = str(references[0])
    return values


def _check_places(cmd: Sequence[str], count: int) -> None:
    known = {"registry", "prefix", *(["ref"] if count else []), *(f"ref{n}" for n in range(1, count + 1))}
    unknown = [name for word in cmd for name in _PLACE.findall(word) if name not in known]
    if unknown:
        raise UsageError(f"unknown placeholder {{{unknown[0]}}}: only {count} images are served")


def _run(cmd: Sequence[str], values: dict[str, str]) -> int:
    argv = [_PLACE.sub(lambda place: values[place[1]], word) for word in cmd]
    env = {**os.environ, **{f"BOT_BOTTLE_{name.upper()}": value for name, value in values.items()}}
    with process.attached(argv, env=env, terminal=True) as child:
        code = child.wait() or 0
    return 128 - code if code < 0 else code


def _wait(words: str) -> int:
    try:
        click.echo(words)
        threading.Event().wait()
    except Interrupted:
        pass  # Ctrl-C is the normal end
    return 0


def _plain(registry: Registry, references: Sequence[Reference]) -> str:
    return "\n".join(map(str, references)) or f"{registry.address}/{registry.prefix}/"


def _json(registry: Registry, sources: Sequence[str], references: Sequence[Reference]) -> str:
    images = [
        {"source": source, "reference": str(each), "digest": str(each.digest)}
        for source, each in zip(sources, references, strict=True)
    ]
    return json.dumps({"registry": registry.address, "prefix": registry.prefix, "images": images})
