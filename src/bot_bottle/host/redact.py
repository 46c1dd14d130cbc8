"""What must never be shown: values of secrets, struck out of all that bot-bottle says, logs and keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

MASK = "***"

_SHORTEST = 4  # characters: shorter ones are in half of all words, and keep nothing safe
_WHOLE_LINE = 8  # characters of one line of a value, as of a private key, that is struck out by itself

_hidden: set[str] = set()
_variables: set[str] = set()


class Secret:
    """A value that does not show itself: not printed, not in JSON, not pickled. It is hidden from then on."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        hide(value)

    def reveal(self) -> str:
        """Give the value, to whoever hands it over."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be written down")


@dataclass(frozen=True, slots=True)
class Credential:
    """A value that a bottle never holds: what it sends to these hosts has it in a placeholder's stead."""

    value: Secret
    hosts: tuple[str, ...]


def hide(value: str) -> None:
    """Have a value struck out of every text, whole, line by line, and as JSON has it."""
    import json  # nobody who shows help should wait for it

    lines = [line for line in value.splitlines() if len(line) >= _WHOLE_LINE]
    forms = {value, value.strip(), json.dumps(value)[1:-1], *lines}
    _hidden.update(form for form in forms if len(form) >= _SHORTEST)


def hide_variable(name: str) -> None:
    """Keep a variable of ours, which a secret is read from, out of the environment of all that we start."""
    _variables.add(name)


def redacted(text: str) -> str:
    """Give a text without the values that are hidden."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def redacted_document(value: Any) -> Any:
    """Give what JSON is made of, its texts without the values that are hidden."""
    match value:
        case str():
            return redacted(value)
        case dict():
            return {key: redacted_document(each) for key, each in value.items()}
        case list() | tuple():
            return [redacted_document(each) for each in value]
    return value


def environment(env: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Give the environment for a program (None: ours), without the variables that secrets are read from."""
    if not _variables:
        return env
    return {
        key: value for key, value in (os.environ if env is None else env).items() if key not in _variables
    }
