"""The variables of a devcontainer.json: `${NAME}`, `${NAME:ARGUMENT}` and `${NAME:ARGUMENT:DEFAULT}`.

Source: https://containers.dev/implementors/json_reference/#variables-in-devcontainerjson. As in the reference
implementation a variable of the environment that is not set and has no default is empty, and a default ends
at the next colon.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, field

from bot_bottle.errors import SpecError
from bot_bottle.host.redact import hide
from bot_bottle.host.text import printable

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_SECRET = re.compile(r"TOKEN|SECRET|PASS|KEY|CRED|AUTH|PRIVATE", re.IGNORECASE)
# what every program may know of its user
_HARMLESS = {"HOME", "USER", "USERNAME", "LOGNAME", "SHELL", "PWD", "LANG", "LC_ALL", "TZ", "TERM"}
_NAMES = {
    "localEnv", "env", "containerEnv", "localWorkspaceFolder", "localWorkspaceFolderBasename",
    "containerWorkspaceFolder", "containerWorkspaceFolderBasename", "devcontainerId",
}  # fmt: skip
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_ID_LENGTH = 52  # of SHA-256 with 5 bits a digit


class Variables(Struct):
    """Values for the variables of one file.

    `project` is the folder that the file is for, `workspace` where a bottle sees it. `container` are the
    variables that the file sets in the bottle. `read` gets the names of this machine's variables whose values
    were used, except for those that every program may know.
    """

    file: Path
    project: Path
    workspace: str
    container: Mapping[str, str] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def substitute(self, text: str, key: str) -> str:
        """Return a text with every variable replaced. Raises SpecError, with its name, for an unknown one."""
        return _VARIABLE.sub(lambda found: self._value(found[1], key), text)

    def substitute_in_command(self, text: str, key: str) -> str:
        """Return a command with every variable replaced; others are its shell's. Raises SpecError."""

        def value(found: re.Match[str]) -> str:
            known = found[1].partition(":")[0] in _NAMES
            return self._value(found[1], key) if known else found[0]

        return _VARIABLE.sub(value, text)

    def _value(self, expression: str, key: str) -> str:
        name, *arguments = expression.split(":")
        if name in ("localEnv", "env", "containerEnv"):
            if not arguments or not arguments[0]:
                raise self._refused(expression, key, "the name of a variable is missing")
            value = self._of_here(arguments[0]) if name != "containerEnv" else self._of_bottle(arguments, key)
            return value if value is not None else (arguments[1] if len(arguments) > 1 else "")
        fixed: dict[str, Callable[[], str]] = {
            "localWorkspaceFolder": lambda: str(self.project),
            "localWorkspaceFolderBasename": lambda: self.project.name,
            "containerWorkspaceFolder": lambda: self.workspace,
            "containerWorkspaceFolderBasename": lambda: posixpath.basename(self.workspace),
            "devcontainerId": self._id,
        }
        if name not in fixed or arguments:
            raise self._refused(expression, key, "there is no such variable")
        return fixed[name]()

    def _of_here(self, name: str) -> str | None:
        value = os.environ.get(name)
        if value and name not in _HARMLESS:
            self.read.append(name)
            if _SECRET.search(name):
                hide(value)
        return value

    def _of_bottle(self, arguments: list[str], key: str) -> str | None:
        if key.startswith("remoteEnv.") and arguments[0] in self.container:
            return self.container[arguments[0]]
        raise self._refused(
            "containerEnv:" + arguments[0],
            key,
            "the image's variables are not known before it runs"
            if key.startswith("remoteEnv.")
            else "it can only be used in remoteEnv",
            "set it in the Dockerfile, as ENV PATH=/extra:$PATH, and leave it out here",
        )

    def _id(self) -> str:
        """Return the id that the reference implementation makes for this folder and file."""
        labels = {
            "devcontainer.config_file": str(self.file),
            "devcontainer.local_folder": str(self.project),
        }
        text = json.dumps(labels, ensure_ascii=False, separators=(",", ":"))
        number = int.from_bytes(hashlib.sha256(os.fsencode(text)).digest(), "big")
        return "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(_ID_LENGTH)))

    def _refused(self, expression: str, key: str, why: str, next_step: str = "") -> SpecError:
        return SpecError(
            f"{self.file}: {printable(key, limit=80)} uses ${{{printable(expression, limit=80)}}}, "
            "which bottle cannot replace",
            why=why,
            next_step=next_step or f"write the value itself into {self.file}",
        )
