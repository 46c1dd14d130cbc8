"""`[login]` in a profile: how an agent's login on this machine is read and refreshed, and its API keys."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Key(_Table):
    """`[[login.keys]]`: the variable for API keys that begin with `prefix`. The first that fits is used."""

    variable: str
    prefix: str = ""


class Refresh(_Table):
    """`[login.refresh]`: how a new access token is requested (RFC 6749, section 6).

    `access`, `refresh`, `expires` and `id` say where the file has the tokens, and when the access token ends
    in milliseconds since 1970; without `expires` it is in the token, as a JSON web token. `time` is where the
    file has the time of the last refresh. `more` are other parameters of the request.
    """

    url: str
    client_id: str
    form: Literal["json", "form"] = "form"
    more: dict[str, str] = {}
    access: list[str] = Field(min_length=1)
    refresh: list[str] = Field(min_length=1)
    expires: list[str] = []
    id: list[str] = []
    time: list[str] = []

    @field_validator("url")
    @classmethod
    def _is_secure(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            raise ValueError("not a URL that begins with https://")
        return url


class OwnLogin(_Table):
    """`[login]`: the agent's own file with its login, and where in it the values of variables are.

    The file is in `folder` of $HOME, or in the folder that the user's `variable` names. `lock` is the name of
    a folder there that the agent makes while it refreshes. Without `file` there are only keys.
    """

    folder: str = ""
    file: str = ""
    variable: str = ""
    lock: str = ""
    values: dict[str, list[str]] = {}
    keys: list[Key] = []
    refresh: Refresh | None = None

    @field_validator("folder", "file", "lock")
    @classmethod
    def _is_inside(cls, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("not a path inside a folder")
        return path
