"""A devcontainer.json, as far as a bottle can be what it asks for; the rest of it is refused by name.

Source: https://containers.dev/implementors/json_reference/
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import json5
from msgspec import Struct, field

from bot_bottle.config.model import File, parse
from bot_bottle.config.variables import Variables
from bot_bottle.errors import SpecError
from bot_bottle.host.text import printable
from bot_bottle.secrets.build import parse_build_secrets
from bot_bottle.workspace import lifecycle
from bot_bottle.workspace.features import Features, find_program, parse_features
from bot_bottle.workspace.lifecycle import Command, Setup
from bot_bottle.workspace.spec import PLACE

# editors' own, or without meaning for a bottle: it ends with its command, maps users, and starts no service
_IGNORED = {
    "$schema", "name", "customizations", "extensions", "settings", "devPort", "portsAttributes",
    "otherPortsAttributes", "shutdownAction", "updateRemoteUserUID", "userEnvProbe", "waitFor",
    "overrideCommand", "hostRequirements", "secrets", "init",
}  # fmt: skip
_USED = {
    "image", "build", "dockerFile", "context", "remoteUser", "containerUser", "containerEnv", "remoteEnv",
    "forwardPorts", "appPort", "workspaceFolder", *lifecycle.CREATE, *lifecycle.START,
    "features", "overrideFeatureInstallOrder",
}  # fmt: skip
_BUILD_IGNORED = {"cacheFrom"}
_BUILD_USED = {"dockerfile", "context", "args", "target", "options"}

# what to do instead; everything else needs a bottle.toml
_INSTEAD = {
    **dict.fromkeys(
        ("dockerComposeFile", "service", "runServices"),
        "name one service's Dockerfile or image in a bottle.toml",
    ),
    "mounts": "a bottle sees the repository alone: --workspace clone, or --workspace mount",
    "workspaceMount": f"a bottle sees the repository at {PLACE}: --workspace clone, or --workspace mount",
    "runArgs": "say it with options of bottle run: -e, -u, -w, -m, --cpus, -p, --allow",
    "initializeCommand": "nothing of a repository is run on this machine: run it yourself",
    "postAttachCommand": "no editor attaches to a bottle: make it postStartCommand, or use bottle exec",
    **dict.fromkeys(("privileged", "capAdd", "securityOpt"), "a bottle's rights cannot be widened"),
}
_TOML = "bottle init writes a bottle.toml, which goes before it"


class Devcontainer(Struct, frozen=True):
    """What a devcontainer.json says, as a bottle.toml would.

    `variables` are those of this machine that it takes values of, `private` the keys that have such values.
    `features` are installed in the image, then `setup` is run; `start` runs in the bottle before its command.
    """

    content: File
    variables: tuple[str, ...] = ()
    private: frozenset[str] = field(default_factory=frozenset)
    features: Features | None = None
    setup: Setup | None = None
    start: Mapping[str, Command] = field(default_factory=dict)


def parse_devcontainer(text: str, path: Path, project: Path) -> Devcontainer:
    """Return what a devcontainer.json for the folder `project` says.

    Raises SpecError, with the names of what a bottle has nothing for.
    """
    try:
        document = json5.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} is not JSON", why=str(error)[:500], next_step=f"correct {path}") from error
    if not isinstance(document, dict):
        raise SpecError(f"{path} is not a JSON object", next_step=f"correct {path}")
    document = {key: value for key, value in document.items() if value not in (None, False, {}, [], "")}
    _check_keys(document, path)
    return _Reader(path, project, document).read()


def _check_keys(document: dict[str, Any], path: Path) -> None:
    unknown = [key for key in document if key not in _IGNORED | _USED]
    if not unknown:
        return
    raise SpecError(
        f"{path} asks for what a bottle does not have: {printable(', '.join(unknown), limit=80)}",
        why="\n".join(f"{key}: {_INSTEAD[key]}" for key in unknown if key in _INSTEAD),
        next_step=f"leave it out of {path}; or {_TOML}",
    )


class _Reader:
    """Reads one document, whose keys are all known."""

    def __init__(self, path: Path, project: Path, document: dict[str, Any]) -> None:
        self._path = path
        self._project = project
        self._document = document
        self._variables = Variables(path, project, PLACE)
        self._folder = posixpath.relpath(path.parent, project)
        self._private: set[str] = set()

    def read(self) -> Devcontainer:
        workdir = self._workdir()
        self._variables.workspace = workdir or PLACE
        env = self._texts("containerEnv", self._document.get("containerEnv", {}), "env")
        self._variables.container = env if isinstance(env, dict) else {}
        more = self._texts("remoteEnv", self._document.get("remoteEnv", {}), "env")
        user = self._document.get("remoteUser", self._document.get("containerUser"))
        wanted = {
            "image": self._image(),
            "user": self._text("remoteUser", user),
            "env": {**env, **more} if isinstance(env, dict) and isinstance(more, dict) else more or env,
            "ports": self._ports(),
            "workdir": workdir,
        }
        content = parse(wanted, str(self._path))
        setup, start = self._setup(content), self._commands(lifecycle.START)
        features = self._features(content)
        names = tuple(dict.fromkeys(self._variables.read))
        return Devcontainer(content, names, frozenset(self._private), features, setup, start)

    def _features(self, content: File) -> Features | None:
        order = self._document.get("overrideFeatureInstallOrder", [])
        try:
            wanted = parse_features(self._replaced("features", self._document.get("features", {})))
            if not isinstance(order, list) or not all(isinstance(each, str) for each in order):
                raise ValueError("overrideFeatureInstallOrder must be a list of strings")
        except ValueError as error:
            raise SpecError(
                f"{self._path}: features cannot be used", why=str(error), next_step=f"correct {self._path}"
            ) from error
        if not wanted:
            return None
        find_program(self._path)
        return Features(wanted, self._path, self._project, tuple(order), content.user or "")

    def _setup(self, content: File) -> Setup | None:
        commands = self._commands(lifecycle.CREATE)
        if not commands and "features" not in self._document:  # which may bring commands of their own
            return None
        private = frozenset(name[4:] for name in self._private if name.startswith("env."))
        folder = content.workdir or PLACE
        return Setup(commands, self._path, self._project, folder, content.user or "", content.env, private)

    def _commands(self, keys: Iterable[str]) -> dict[str, Command]:
        """Return lifecycle commands, with their variables replaced."""
        found = {}
        for key in keys:
            before = len(self._variables.read)
            try:
                command = lifecycle.parse_command(
                    self._replaced(key, self._document.get(key, ""), command=True)
                )
            except ValueError as error:
                raise SpecError(
                    f"{self._path}: {key} cannot be used", why=str(error), next_step=f"correct {self._path}"
                ) from error
            if len(self._variables.read) > before:
                raise SpecError(
                    f"{self._path}: {key} has the value of the variable {self._variables.read[-1]} of yours",
                    why="commands of an image can be read by all who have it",
                    next_step="set a variable to that in remoteEnv, and use it in the command as $NAME",
                )
            if command:
                found[key] = command
        return found

    def _replaced(self, key: str, value: Any, *, command: bool = False) -> Any:
        """Return a value with the variables of its texts replaced."""
        match value:
            case dict():
                return {name: self._replaced(key, each, command=command) for name, each in value.items()}
            case list():
                return [self._replaced(key, each, command=command) for each in value]
            case str() if command:
                return self._variables.substitute_in_command(value, key)
            case str():
                return self._variables.substitute(value, key)
        return value

    def _image(self) -> dict[str, Any]:
        build, image = self._document.get("build"), self._document.get("image")
        if build is None and "dockerFile" in self._document:  # as it was written before there was "build"
            build = {"dockerfile": self._document["dockerFile"]}
            build |= {"context": self._document["context"]} if "context" in self._document else {}
        if image is not None and build is None:
            return {"name": self._text("image", image)}
        if not isinstance(build, dict) or image is not None:
            raise SpecError(
                f"{self._path} cannot be used",
                why=f"it names {'no image and no' if image is None else 'an image and a'} build",
                next_step=f"name one of them; or {_TOML}",
            )
        unknown = [key for key in build if key not in _BUILD_USED | _BUILD_IGNORED and build[key]]
        if unknown or not isinstance(build.get("dockerfile"), str):
            what = f"its build has {', '.join(unknown)}" if unknown else "its build has no dockerfile"
            raise SpecError(f"{self._path} cannot be used", why=printable(what, limit=80), next_step=_TOML)
        image = {"target": self._text("build.target", build.get("target"))}
        image["args"] = self._texts("build.args", build.get("args", {}), "image.args")
        image["secrets"], image["ssh"] = self._mounts(build.get("options", []))
        for key in ("dockerfile", "context"):  # both are relative to the file's folder
            value = self._text(f"build.{key}", build.get(key, "."))
            image[key] = posixpath.normpath(f"{self._folder}/{value}") if isinstance(value, str) else value
        return image

    def _mounts(self, options: Any) -> tuple[dict[str, Any], list[str]]:
        """Return the secrets and SSH agents that options of `docker build` name; there may be no others."""
        words = [self._text("build.options", each) for each in options] if isinstance(options, list) else []
        if not isinstance(options, list) or not all(isinstance(word, str) for word in words):
            raise SpecError(f"{self._path} cannot be used", why="build.options must be a list of texts")
        secrets: list[str] = []
        ssh: list[str] = []
        left = iter(words)
        for word in left:
            name, equals, value = word.partition("=")
            if name not in ("--secret", "--ssh"):
                raise SpecError(
                    f"{self._path} cannot be used",
                    why=f"its build has the option {printable(name, limit=80)}, not only --secret and --ssh",
                    next_step=_TOML,
                )
            (secrets if name == "--secret" else ssh).append(value if equals else next(left, ""))
        try:
            found = parse_build_secrets(secrets)
        except SpecError as error:
            raise SpecError(f"{self._path}: {error.message}", next_step=error.next_step) from error
        return {name: {each.kind: each.place} for name, each in found.items()}, ssh

    def _workdir(self) -> str | None:
        folder = self._text("workspaceFolder", self._document.get("workspaceFolder"))
        if folder is None:
            return None
        whole = posixpath.normpath(folder) if isinstance(folder, str) else ""
        if whole != PLACE and not whole.startswith(PLACE + "/"):
            raise SpecError(
                f"{self._path}: workspaceFolder is not in {PLACE}",
                why=f"a bottle sees the repository at {PLACE}, and nowhere else",
                next_step=f"leave it out of {self._path}; or {_TOML}",
            )
        return whole if whole != PLACE else None

    def _ports(self) -> list[Any]:
        ports: list[Any] = []
        for key in ("forwardPorts", "appPort"):
            value = self._document.get(key, [])
            for item in value if isinstance(value, list) else [value]:
                text = self._text(key, item)
                if key == "forwardPorts" and isinstance(text, str) and not text.isdecimal():
                    host, _, port = text.rpartition(":")
                    if host not in ("localhost", "127.0.0.1"):
                        raise SpecError(
                            f"{self._path}: forwardPorts has '{printable(text, limit=80)}', "
                            "no port of the bottle",
                            next_step="name a port by its number alone",
                        )
                    text = port
                ports.append(text)
        return ports

    def _texts(self, key: str, table: Any, ours: str) -> Any:
        """Return a table with its values as texts; the check of the model reports other types."""
        if not isinstance(table, dict):
            return table
        found = {}
        for name, value in table.items():
            before = len(self._variables.read)
            found[name] = self._text(f"{key}.{name}", value)
            of_private = any(f"{{containerEnv:{each[4:]}" in str(value) for each in self._private)
            if len(self._variables.read) > before or of_private:
                self._private.add(f"{ours}.{name}")
        return found

    def _text(self, key: str, value: Any) -> Any:
        """Return a scalar as JSON writes it, with its variables replaced; anything else as it is."""
        match value:
            case bool():
                return "true" if value else "false"
            case float() if value.is_integer():
                return str(int(value))
            case int() | float():
                return str(value)
            case str():
                return self._variables.substitute(value, key)
        return value
