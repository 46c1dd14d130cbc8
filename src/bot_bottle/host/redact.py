"""Values of secrets, which are redacted from everything that bot-bottle prints, logs and stores."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

MASK = "***"

_SHORTEST = 4  # characters; shorter values are part of too many words
_WHOLE_LINE = 8  # characters of one line of a value, such as a private key's, that is redacted by itself

_hidden: set[str] = set()
_variables: set[str] = set()


class Secret:
    """A value that does not show itself: not printed, not in JSON, not pickled. Output redacts it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        hide(value)

    def reveal(self) -> str:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be serialized")


Renew = Callable[[bool], Secret]
"""Returns the value in force. It is called before each use; with True after a server has refused the last."""


def hide(value: str) -> None:
    """Redact a value from every text: as a whole, line by line, and as JSON writes it."""
    _hidden.update(_forms(value))


def _forms(value: str) -> set[str]:
    """Return the texts of which a value must not show one."""
    import json  # not needed to print help

    lines = [line for line in value.splitlines() if len(line) >= _WHOLE_LINE]
    forms = {value, value.strip(), json.dumps(value)[1:-1], *lines}
    return {form for form in forms if len(form) >= _SHORTEST}


class Mask:
    """Masks values in parts of URLs: in any case of letters, and percent-encoded (RFC 3986, 2.1)."""

    def __init__(self, values: Iterable[str]) -> None:
        forms = sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, forms)), re.IGNORECASE) if forms else None

    def __call__(self, text: str) -> str:
        """Return a text with the values masked; one that has them percent-encoded is decoded first."""
        if self._pattern is None:
            return text
        if "%" in text:
            from urllib.parse import unquote  # takes long to import

            decoded = unquote(text)
            text = decoded if self._pattern.search(decoded) else text
        return self._pattern.sub(MASK, text)


def hide_variable(name: str) -> None:
    """Remove a variable of ours, from which a secret is read, from the environment of all programs."""
    _variables.add(name)


def redacted(text: str) -> str:
    """Return a text with the hidden values masked."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def redacted_document(value: Any) -> Any:
    """Return a JSON document with the hidden values masked in its texts."""
    match value:
        case str():
            return redacted(value)
        case dict():
            return {key: redacted_document(each) for key, each in value.items()}
        case list() | tuple():
            return [redacted_document(each) for each in value]
    return value


def environment(env: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return the environment for a program (None: ours) without the variables that secrets are read from."""
    if not _variables:
        return env
    return {
        key: value for key, value in (os.environ if env is None else env).items() if key not in _variables
    }
