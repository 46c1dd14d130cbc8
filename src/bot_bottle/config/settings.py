"""Flags over environment over file over default: each value in force, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.config.file import ConfigFile
from bot_bottle.errors import SpecError
from bot_bottle.host.durations import parse_duration
from bot_bottle.secrets.build import BuildSecret, Ssh, parse_ssh
from bot_bottle.secrets.reference import Reference, make_reference

if TYPE_CHECKING:
    from bot_bottle.config.devcontainer import Devcontainer

DEFAULT = "default"
DEFAULT_MEMORY = "4g"

# every key, in the order in which it is shown, and its default
DEFAULTS: dict[str, Any] = {
    "image.name": None,
    "image.context": Path(),
    "image.dockerfile": None,
    "image.target": None,
    "image.args": {},
    "image.secrets": {},
    "image.ssh": {},
    "agent.name": None,
    "agent.version": None,
    "agent.integrity": {},
    "backend": "smolmachines",
    "workspace": "none",
    "command": (),
    "cpus": None,
    "memory": DEFAULT_MEMORY,
    "storage": None,
    "limits.timeout": None,
    "limits.requests": None,
    "limits.tokens": None,
    "user": "",
    "workdir": "",
    "env": {},
    "secrets": {},
    "ports": (),
    "egress.allow": (),
    "egress.host_ports": (),
    "egress.open": False,
    "caches.packages": (),
    "git.push": (),
    "git.branches": (),
    "git.paths": (),
    "git.hold": False,
    "git.secrets": True,
    "cache.remote": None,
    "cache.trust": None,
    "cache.sign": None,
    "cache.scan": None,
    "cache.scan_exclude": (),
}
_PATHS = ("image.context", "image.dockerfile")
_REFERENCES = ("secrets", "image.secrets", "image.ssh")  # the tables that say where something is
_TABLES = ("image.args", "agent.integrity", "env", *_REFERENCES)  # joined by name, not replaced as a whole
_LISTS = (  # joined
    "egress.allow",
    "egress.host_ports",
    "caches.packages",
    "ports",
    "git.push",
    "git.branches",
    "git.paths",
)
# of which the tighter is in force, unless an option says another, and how large they are
_LIMITS: dict[str, Callable[[Any], int]] = {
    "limits.timeout": lambda text: parse_duration(text) or 0,  # an invalid duration is refused later
    "limits.requests": int,
    "limits.tokens": int,
}


class Setting(Struct, frozen=True):
    """A value in force. `origin` says where it came from: a flag, a variable, a file, or `default`.

    A `private` value is not to be shown: it holds what a variable of this machine holds.
    """

    value: Any
    origin: str
    private: bool = False

    @property
    def is_asked(self) -> bool:
        """Whether an option of the command says it."""
        return self.origin.startswith("-")


class Settings(Mapping[str, Setting]):
    """All values in force, by key. Those of a table have keys of their own: `env.NAME`.

    `project` is the folder that they are for, `file` the configuration that some are from, if there is one,
    and `of_file` what that says, whether or not it is in force. `devcontainer` is that file, if it is one.
    """

    def __init__(
        self,
        settings: Mapping[str, Setting],
        project: Path,
        file: Path | None = None,
        of_file: Mapping[str, Any] | None = None,
        devcontainer: Devcontainer | None = None,
    ) -> None:
        self._settings = dict(settings)
        self.project = project
        self.file = file
        self.of_file = of_file or {}
        self.devcontainer = devcontainer

    def __getitem__(self, key: str) -> Setting:
        return self._settings[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def replaced(self, key: str, setting: Setting) -> Settings:
        """Return them with another value for a key."""
        changed = {**self._settings, key: setting}
        return Settings(changed, self.project, self.file, self.of_file, self.devcontainer)

    def value(self, key: str) -> Any:
        """Return the value in force."""
        return self._settings[key].value

    def table(self, key: str) -> dict[str, Any]:
        """Return a table's values by name."""
        start = f"{key}."
        return {name[len(start) :]: each.value for name, each in self.items() if name.startswith(start)}


def gather(given: Mapping[str, Setting], file: ConfigFile | None, start: Path = Path()) -> Settings:
    """Join what was `given` (by flags and environment; tables whole) with the file and the defaults.

    `start` is the folder they are for, unless the file is in one above it.

    Raises SpecError when a path of the file leads out of its folder.
    """
    of_file = _of_file(file) if file else {}
    settings: dict[str, Setting] = {}
    for key, default in DEFAULTS.items():
        if key in _TABLES:
            for source in (of_file, given):
                if key in source:
                    origin = source[key].origin
                    values = source[key].value.items()
                    private = file.private if file and source is of_file else frozenset()
                    names = {name: f"{key}.{name}" for name, _ in values}
                    settings |= {
                        names[name]: Setting(value, origin, names[name] in private) for name, value in values
                    }
        elif key in _LISTS and key in given and key in of_file:
            both = (of_file[key], given[key])
            value = tuple(dict.fromkeys(item for each in both for item in each.value))
            settings[key] = Setting(value, ", ".join(each.origin for each in both))
        elif key in _LIMITS and key in given and key in of_file and not given[key].is_asked:
            size = _LIMITS[key]
            settings[key] = min(given[key], of_file[key], key=lambda each: size(each.value))
        else:
            settings[key] = given.get(key) or of_file.get(key) or Setting(default, DEFAULT)
    if file is None:
        return Settings(settings, start)
    said = {key: each.value for key, each in of_file.items()}
    for table in _REFERENCES:
        said |= {f"{table}.{name}": str(reference) for name, reference in said.pop(table).items()}
    if file.variables:
        said["variables"] = list(file.variables)
    return Settings(settings, file.root, file.path, said, file.devcontainer)


def _of_file(file: ConfigFile) -> dict[str, Setting]:
    content = file.content.model_dump()
    flat = dict(content)
    for table in ("image", "agent", "limits", "egress", "caches", "git", "cache"):
        flat |= {f"{table}.{name}": value for name, value in flat.pop(table).items()}
    for key in _LISTS:
        flat[key] = tuple(flat[key]) or None
    built = [key for key in DEFAULTS if key.startswith("image.") and key != "image.name" and flat[key]]
    if flat["image.name"] is not None and built:
        raise SpecError(
            f"{file.path}: image.name and {built[0]} exclude each other",
            next_step="name the image, or what it is built from",
        )
    if flat["image.context"] is None:
        flat["image.context"] = "."
    for key in _PATHS:
        if flat[key] is not None:
            flat[key] = file.inside(flat[key], key)
    if flat["command"] is not None:
        flat["command"] = tuple(flat["command"])
    for key in ("secrets", "image.secrets"):
        flat[key] = {name: _reference(key, name, table, file) for name, table in flat[key].items()}
    flat["image.ssh"] = _agents(flat["image.ssh"], file)
    return {key: Setting(value, str(file.path)) for key, value in flat.items() if value is not None}


def _reference(key: str, name: str, table: Mapping[str, Any], file: ConfigFile) -> Reference:
    """Return the reference in a table of a secret. It must not be a file in the repository."""
    if table["file"] is not None:
        _check_outside(table["file"], f"{key}.{name}.file", file)
    try:
        return make_reference(
            name,
            table,
            table.get("hosts", ()),
            Reference if key == "secrets" else BuildSecret,
            body=table.get("body") is True,
        )
    except SpecError as error:
        raise SpecError(f"{file.path}: {error.message}", why=error.why, next_step=error.next_step) from error


def _agents(items: list[str], file: ConfigFile) -> dict[str, Ssh]:
    try:
        found = parse_ssh(items)
    except SpecError as error:
        raise SpecError(f"{file.path}: {error.message}", next_step=error.next_step) from error
    for ssh in found.values():
        for path in ssh.paths:
            _check_outside(path, f"the path of {ssh.name} in image.ssh", file)
    return found


def _check_outside(place: str, what: str, file: ConfigFile) -> None:
    if not place.startswith(("/", "~/")):
        raise SpecError(
            f"{file.path}: {what} must be absolute, or begin with ~/",
            why="what is in the repository is in its workspace, its image and its history",
        )
