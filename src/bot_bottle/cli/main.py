"""`bottle`: the group of commands, and the one place where an error becomes a message and an exit status."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bot_bottle.cli import help as overview
from bot_bottle.errors import BottleError, Interrupted, UsageError
from bot_bottle.host import signals, terminal
from bot_bottle.host.redact import redacted
from bot_bottle.host.text import printable_lines
from bot_bottle.version import VERSION

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@contextlib.contextmanager
def _readers_may_leave() -> Iterator[None]:
    """Exit as a program killed by SIGPIPE does, if nobody reads our output any more."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(141) from None  # click's own answer would be 1


class LazyGroup(click.Group):
    """Loads a command's module when the command is used, so that `bottle --help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(overview.COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        cmd_name = overview.ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in overview.COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"bot_bottle.cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name. An unknown name gets a suggestion."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, [*overview.COMMANDS, *overview.ALIASES], n=1)
            hint = f"did you mean `bottle {near[0]}`?" if near else "see bottle --help"
            raise UsageError(f"no such command: {name[:50]!r}", next_step=hint)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Return the commands with this prefix, without loading them."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = ((name, what) for name, what in overview.COMMANDS.items() if name.startswith(incomplete))
        return [CompletionItem(name, help=what) for name, what in sorted(found)]

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line, which prints what --help and --version print."""
        with _readers_may_leave():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _readers_may_leave():
            return super().invoke(ctx)

    def get_help(self, ctx: click.Context) -> str:
        """Return the first page of help, without loading a command."""
        return overview.text().rstrip()


@click.command(cls=LazyGroup, help=overview.ABOUT, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", prog_name="bottle")
@click.option("-v", "--verbose", is_flag=True, help="Show every command that is run, and a bug's traceback.")
@click.pass_context
def bottle(ctx: click.Context, /, verbose: bool) -> None:
    """Collect the commands."""
    if not terminal.shows_colours():
        ctx.color = False
    if verbose:
        # only here: it takes longer to import than --help may
        from bot_bottle.cli.options import log_commands

        log_commands()


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit status. Every failure is one message on standard error."""
    _open_streams()
    signals.install()
    try:
        result: Any = bottle.main(arguments, prog_name="bottle", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        _say(f"bottle: {_words(error)}")
        return error.exit_code
    except (Interrupted, click.Abort) as error:
        signum = getattr(error, "signum", 2)
        _say("bottle: interrupted; everything was cleaned up")
        return 128 + signum
    except BottleError as error:
        _say(f"bottle: {error}")
        return error.exit_code
    except Exception as error:
        return _unexpected(error)


def _words(error: click.ClickException) -> str:
    """Return click's message in the form of our own."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    next_step = f"\nNext: {context.command_path} --help" if context else ""
    return f"{message[:1].lower()}{message[1:]}{next_step}"


def _open_streams() -> None:
    """Open standard streams that our caller has closed, as /dev/null.

    Otherwise the next file that is opened gets the number, and messages to the user go into it. Names of
    files that are not text in the user's encoding are printed as the bytes that they are.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    codecs.register_error("bot-bottle", _encode)
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_ascii = codecs.lookup(sys.stdout.encoding).name == "ascii"  # no locale is set
        sys.stdout.reconfigure(encoding="utf-8" if is_ascii else None, errors="bot-bottle")


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return bytes of a name for their surrogates (PEP 383), and an escape for what has no encoding."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _unexpected(error: Exception) -> int:
    from bot_bottle.host.system_errors import explained  # loaded where something went wrong

    if known := explained(error):
        _say(f"bottle: {known}")
        return known.exit_code
    import logging
    import traceback

    if logging.getLogger("bot_bottle").isEnabledFor(logging.INFO):
        _say(traceback.format_exc())
    advice = "this is a bug in bottle; run it again as bottle -v ... for the traceback, and report it"
    _say(f"bottle: {type(error).__name__}: {error}\nNext: {advice}")
    return BottleError.exit_code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # without a reader, the exit status is enough
        print(printable_lines(redacted(text)), file=sys.stderr, flush=True)  # noqa: T201 - the command line may print
