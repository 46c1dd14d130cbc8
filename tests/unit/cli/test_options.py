"""A setting stands in several places: none is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from bot_bottle.cli import options
from bot_bottle.cli.commands.run import command as run
from bot_bottle.cli.groups import GROUPS
from bot_bottle.cli.settings import _KEYS
from bot_bottle.config.model import File, UserFile
from bot_bottle.config.settings import DEFAULTS

NAMED_TABLES = (
    "env",
    "secrets",
    "image.args",
    "image.secrets",
    "agent.integrity",
)  # whose keys are names of the user's


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if f"{prefix}{name}" not in NAMED_TABLES and isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_key_of_the_file_has_a_default() -> None:
    assert {*keys(File), *keys(UserFile)} == set(DEFAULTS)


def test_every_option_with_a_key_is_one_of_run_and_has_a_default() -> None:
    assert {key for key, _ in _KEYS.values()} <= set(DEFAULTS)
    assert set(_KEYS) <= {param.name for param in run.params}


@pytest.mark.parametrize("option", [each for each in run.params if isinstance(each, click.Option)])
def test_every_option_of_run_is_in_one_help_group(option: click.Option) -> None:
    found = [group for group, names in GROUPS.items() if option.name in names]
    assert option.hidden or len(found) == 1, option.name


@pytest.mark.parametrize(("given", "taken"), [("nested", "nested"), ("emulated", "nested"), ("kvm", "kvm")])
def test_the_accelerator_is_taken_under_its_earlier_name_too(given: str, taken: str) -> None:
    @click.command()
    @options.accel_option
    def command(accel: str) -> None:
        click.echo(accel)

    done = CliRunner().invoke(command, ["--accel", given])
    assert (done.exit_code, done.output) == (0, f"{taken}\n")
