"""API keys that are given to `bottle login`: checked, and the variable that each is for."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bot_bottle.agent.own_login import OwnLogin
from bot_bottle.errors import SecretError
from bot_bottle.host.redact import Secret
from bot_bottle.host.text import is_printable
from bot_bottle.secrets.reference import Reference, make_reference, resolve

_NAME = "API_KEY"  # in messages


def read(places: Mapping[str, str]) -> Secret:
    """Return the value at the place of one kind: env, file or keychain. Raises SpecError, SecretError."""
    reference = make_reference(_NAME, places, (), Reference)
    return resolve([reference])[_NAME]


def variable_for(name: str, login: OwnLogin, key: Secret) -> str:
    """Return the variable that an agent takes an API key from. Raises SecretError, without the key."""
    text = key.reveal()
    if not text or text.strip() != text or not text.isascii() or not is_printable(text) or " " in text:
        raise SecretError("this is not an API key", why="a key is one line of ASCII, without spaces")
    for each in login.keys:
        if text.startswith(each.prefix):
            return each.variable
    prefixes = " or ".join(each.prefix for each in login.keys)
    raise SecretError(f"this is not an API key of {name}", why=f"its keys begin with {prefixes}")


def given_in_environment(login: OwnLogin) -> list[str]:
    """Return the variables of this environment that have a key, which is used without a login."""
    return [each.variable for each in login.keys if os.environ.get(each.variable)]
