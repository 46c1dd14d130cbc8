"""The reference pages of the documents, made from the code: commands, settings, variables, exit statuses."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

import click
from pydantic import BaseModel

from bot_bottle import errors
from bot_bottle.cli import help as overview
from bot_bottle.cli import main, settings
from bot_bottle.config import environment
from bot_bottle.config.model import File
from bot_bottle.config.settings import DEFAULTS
from bot_bottle.errors import BottleError

WIDTH = 80

# exit statuses that are no class of errors.py
OTHER_STATUSES = {
    1: "`run --twin` found a difference, or a bottle of `bottle fan` failed",
    126: "The command in the bottle cannot be run",
    127: "The command in the bottle was not found",
    141: "Nobody reads the output any more (SIGPIPE)",
}


def pages() -> dict[str, str]:
    """Return every page: its path below the documents, and its Markdown."""
    found = {f"commands/{name}.md": command_page(name) for name in sorted(overview.COMMANDS)}
    found["commands/index.md"] = commands_page()
    found["reference/settings.md"] = settings_page()
    found["reference/variables.md"] = variables_page()
    return found


def commands_page() -> str:
    """Return the list of all commands."""
    rows = [[f"[bottle {name}]({name}.md)", what] for name, what in sorted(overview.COMMANDS.items())]
    return f"# Commands\n\n{table(['command', ''], rows)}"


def command_page(name: str) -> str:
    """Return the page of a command: its help, and that of the commands in it."""
    parts = [f"# bottle {name}\n"]
    if others := [f"`bottle {other}`" for other, command in overview.ALIASES.items() if command == name]:
        parts.append(f"Other names: {', '.join(others)}.\n")
    for path, command in tree(main.bottle, name):
        if path != [name]:
            parts.append(f"## bottle {' '.join(path)}\n")
        context = click.Context(command, info_name=" ".join(["bottle", *path]), terminal_width=WIDTH)
        parts.append(f"```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def tree(group: click.Group, *path: str) -> Iterator[tuple[list[str], click.Command]]:
    """Yield a command by its words, and all commands in it."""
    command: click.Command = group
    for word in path:
        assert isinstance(command, click.Group)  # noqa: S101 - a path leads through groups
        command = command.get_command(click.Context(command), word) or command
    yield list(path), command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from tree(group, *path, name)


def options_of(*path: str) -> list[click.Option]:
    """Return a command's options, hidden ones left out."""
    [(_, command)] = [each for each in tree(main.bottle, *path) if each[0] == list(path)]
    return [option for option in command.params if isinstance(option, click.Option) and not option.hidden]


class Key(typing.NamedTuple):
    """A key of bottle.toml, and what else sets it. Texts are empty where there is nothing."""

    name: str
    kind: str
    default: str
    option: str
    variable: str
    meaning: str


def setting_keys() -> list[Key]:
    """Return every key of bottle.toml, from the model of the file, the defaults and the options."""
    options = {option.name: option for option in options_of("run")}
    by_key = {key: options[name] for name, (key, _) in settings._KEYS.items() if name in options}
    found = []
    for name, kind, meaning in _fields(File):
        option = by_key.get(name.removesuffix(".NAME"))
        default = DEFAULTS.get(name)
        found.append(
            Key(
                name,
                kind,
                "" if default in (None, (), {}, "") or name == "image.context" else _toml(default),
                max(option.opts, key=len) if option else "",
                str(option.envvar or "") if option else "",
                meaning,
            )
        )
    return found


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner = _table(field.annotation)
        if inner is None:
            yield prefix + name, _kind(field.annotation), field.description or ""
        elif typing.get_origin(field.annotation) is dict:
            yield from _fields(inner, f"{prefix}{name}.NAME.")
        else:
            yield from _fields(inner, f"{prefix}{name}.")


def _table(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *typing.get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _kind(annotation: Any) -> str:
    names = {str: "string", int: "integer", bool: "boolean"}
    if isinstance(annotation, types.UnionType):
        [annotation] = [each for each in typing.get_args(annotation) if each is not type(None)]
    if typing.get_origin(annotation) is list:
        return f"list of {names[typing.get_args(annotation)[0]]}s"
    return "table of strings" if typing.get_origin(annotation) is dict else names[annotation]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def settings_page() -> str:
    """Return the table of all settings."""
    rows = [
        [
            f"`{key.name}`",
            key.kind,
            key.default,
            *(f"`{each}`" if each else "" for each in key[3:5]),
            key.meaning,
        ]
        for key in setting_keys()
    ]
    about = (
        "# Settings\n\nEvery key of [bottle.toml](../bottle-toml.md). Options override variables, variables "
        "the file, and the file the defaults.\n\n"
    )
    return about + table(["key", "type", "default", "option", "variable", "meaning"], rows)


def variables_page() -> str:
    """Return the tables of all variables."""
    parts = ["# Environment variables\n"]
    parts.append("## Variables of options\n")
    rows = [[f"`{name}`", f"`{option}`", meaning] for name, (option, meaning) in option_variables().items()]
    parts.append(table(["variable", "option", "meaning"], rows))
    for title, group in (
        ("Other variables", environment.READ),
        ("Variables that commands get", environment.SET),
        ("Internal variables", environment.INTERNAL),
    ):
        parts += [f"## {title}\n", table(["variable", "meaning"], [[f"`{k}`", v] for k, v in group.items()])]
    return "\n".join(parts)


def option_variables() -> dict[str, tuple[str, str]]:
    """Return each variable that stands for an option, with the option and its help."""
    found = {}
    for path, command in tree(main.bottle):
        for option in command.params if path else ():
            if isinstance(option, click.Option) and option.envvar:
                found[str(option.envvar)] = (max(option.opts, key=len), option.help or "")
    return dict(sorted(found.items()))


def statuses() -> dict[int, str]:
    """Return every exit status of bottle itself and its meaning, from errors.py."""
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BottleError)
    ]
    found = {kind.exit_code: (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ") for kind in kinds}
    return dict(sorted((code, " ".join(text.split())) for code, text in found.items()))


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(_escaped(cell) for cell in line) for line in (heads, ["---"] * len(heads), *rows)]
    return "".join(f"| {line} |\n" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")
