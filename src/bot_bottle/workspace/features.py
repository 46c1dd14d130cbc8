"""Features of a devcontainer.json, and a project of their own for the reference CLI to install them from.

Source: https://containers.dev/implementors/features/. The CLI gets a project that has nothing but them: of
others it runs commands on this machine (initializeCommand), and it writes a lock file beside the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot_bottle.errors import SpecError
from bot_bottle.host import process
from bot_bottle.host.files import read_regular
from bot_bottle.host.text import printable
from bot_bottle.workspace.lifecycle import CREATE, Command, parse_command

PROGRAM = "devcontainer"
LABEL = "devcontainer.metadata"

_MOST_FILES = 10_000  # of all local features
_MOST_BYTES = 256 << 20
_LOCK_LIMIT = 1 << 20  # bytes
_METADATA_LIMIT = 1 << 20
# what a feature may ask of the container that a bottle has nothing for
_REFUSED = ("privileged", "mounts", "entrypoint", "postStartCommand")


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a `file` in `project`: their options by reference, and the `order` that it asks for.

    They are installed for `user` ("": that of the image).
    """

    wanted: Mapping[str, Any] = field(repr=False)  # options may be secrets
    file: Path
    project: Path
    order: tuple[str, ...] = ()
    user: str = ""


def find_program(file: Path) -> Path:
    """Return the reference CLI, for the features of `file`. Raises SpecError where it is not installed."""
    program = process.find(PROGRAM)
    if program is None:
        raise SpecError(
            f"{file} asks for features, and the {PROGRAM} CLI, which installs them, is not there",
            next_step="install it with `npm install -g @devcontainers/cli`, or leave the features out and "
            "install what they install in the Dockerfile, with RUN",
        )
    return program


def parse_features(value: Any) -> dict[str, Any]:
    """Return options by feature. Raises ValueError for anything that is none of their forms."""
    if not isinstance(value, dict):
        raise ValueError("they must be an object: a feature's reference, and its options")
    for name, options in value.items():
        values = options.values() if isinstance(options, dict) else (options,)
        if not name or "\0" in name or not all(isinstance(each, str | bool) for each in values):
            raise ValueError(f"the options of {printable(name, limit=80)} must be strings, true or false")
    return dict(value)


def write_project(features: Features, image: str, folder: Path) -> tuple[Path, str]:
    """Write a project into an empty folder that installs features on `image`.

    Return its devcontainer.json, and the SHA-256 of all that decides what is installed, but for `image`.
    Raises SpecError for a local feature that is not in the project, or holds what no image can take.
    """
    place = features.file.relative_to(features.project)
    config = folder / place
    config.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"features": dict(features.wanted)}
    document |= {"overrideFeatureInstallOrder": list(features.order)} if features.order else {}
    document |= {"remoteUser": features.user} if features.user else {}
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(features.wanted):
        if name.startswith((".", "/")):
            source = _inside(features, name)
            _copy(source, folder / source.relative_to(features.project.resolve()), features, digest.update)
    config.write_text(json.dumps({"image": image, **document}), encoding="utf-8")
    lock = config.with_name(config.name.removesuffix(".json") + "-lock.json")
    try:
        data, _ = read_regular(features.project / place.parent / lock.name, _LOCK_LIMIT)
    except FileNotFoundError:
        return config, digest.hexdigest()
    except OSError as error:
        raise SpecError(f"cannot read {lock.name} beside {features.file}", why=str(error)) from error
    lock.write_bytes(data)
    digest.update(data)
    return config, digest.hexdigest()


def _inside(features: Features, name: str) -> Path:
    project = features.project.resolve()
    found = (features.file.parent / name).resolve()
    own = features.file.resolve().is_relative_to(found)  # with the file, whose commands the CLI would run
    if name.startswith("/") or own or not found.is_relative_to(project):
        raise SpecError(
            f"{features.file}: the feature {printable(name, limit=80)} has no folder of its own",
            why="a local feature is a folder of the repository, and not the one with this file",
            next_step=f"name a folder in {features.file.parent}, as ./NAME",
        )
    if not found.is_dir():
        raise SpecError(
            f"{features.file}: there is no folder of the feature {printable(name, limit=80)}",
            why=str(found),
            next_step=f"correct {features.file}",
        )
    return found


def _copy(source: Path, target: Path, features: Features, add: Any) -> None:
    """Copy a feature's folder, and pass all of it to `add`. Links may lead to what is in it alone."""
    size = 0
    for count, (path, facts) in enumerate(_entries(source)):
        where = path.relative_to(source)
        add(json.dumps([str(where), facts.st_mode], ensure_ascii=True).encode())
        to = target / where
        size += facts.st_size
        if count > _MOST_FILES or size > _MOST_BYTES:
            raise SpecError(
                f"{features.file}: the feature in {source} is too large",
                why=f"{_MOST_FILES} files and {_MOST_BYTES >> 20} MiB are the most",
            )
        if stat.S_ISDIR(facts.st_mode):
            to.mkdir(parents=True, exist_ok=True)
        elif stat.S_ISREG(facts.st_mode):
            data, _ = read_regular(path, _MOST_BYTES)
            add(hashlib.sha256(data).digest())
            to.write_bytes(data)
            to.chmod(facts.st_mode & 0o755 | 0o600)
        elif stat.S_ISLNK(facts.st_mode) and path.resolve().is_relative_to(source):
            add(os.fsencode(path.readlink()))
            to.symlink_to(path.readlink())
        else:
            raise SpecError(
                f"{features.file}: a feature cannot have {printable(str(path), limit=200)}",
                why="it is a link out of its folder, or neither a file nor a folder",
            )


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    yield folder, folder.lstat()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(path)
        else:
            yield path, path.lstat()


def commands_of_features(label: str, base_label: str, file: Path) -> dict[str, dict[str, Command]]:
    """Return the lifecycle commands of features that are in an image's label and not in that of its base.

    By key, and then by feature. Raises SpecError for a feature that asks for what a bottle does not have.
    """
    before = _metadata(base_label)
    found: dict[str, dict[str, Command]] = {key: {} for key in CREATE}
    for entry in _metadata(label):
        name = entry.get("id")
        if not isinstance(name, str) or entry in before:
            continue
        refused = [key for key in _REFUSED if entry.get(key)]
        if refused:
            raise SpecError(
                f"{file}: the feature {printable(name, limit=80)} asks for what a bottle does not have: "
                f"{', '.join(refused)}",
                next_step="leave the feature out, and install what it installs in the Dockerfile, with RUN",
            )
        for key in CREATE:
            try:
                command = parse_command(entry.get(key) or "")
            except ValueError:
                continue  # what no tool could run
            if command:
                found[key][name] = command
    return found


def labelled_user(label: str) -> str:
    """Return the user that an image's label names for who works in it: the last entry that has one wins."""
    for key in ("remoteUser", "containerUser"):
        for entry in reversed(_metadata(label)):
            if isinstance(user := entry.get(key), str) and user:
                return user
    return ""


def _metadata(label: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(label[:_METADATA_LIMIT]) if label else []
    except (ValueError, RecursionError):
        return []
    entries = entries if isinstance(entries, list) else [entries]
    return [entry for entry in entries if isinstance(entry, dict)]
