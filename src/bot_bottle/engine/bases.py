"""The images that a Dockerfile is based on, and their digests.

Source: Dockerfile reference, "FROM", "ARG" before FROM, "Environment replacement", "COPY --from".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from bot_bottle.engine.commands import BuildRequest
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import EngineError, SpecError

_LIMIT = 1 << 20  # bytes of a Dockerfile
_LINE = re.compile(r"(?i)\s*(FROM|ARG|COPY)\s+(.*)")
_FLAG = re.compile(r"--(\S+?)=(\S+)\s+")
_STAGE = re.compile(r"(?i)(\S+)(?:\s+AS\s+(\S+))?\s*\Z")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?:(:?-)([^}]*))?\}|(\w+))")


def base_images(request: BuildRequest) -> list[str]:
    """Return the names of the images that a build takes from elsewhere, in their order, each once.

    A name that cannot be known before the build, as a variable in it has no value, is left out. Raises
    SpecError where the Dockerfile cannot be read.
    """
    path = request.find_dockerfile()
    given = {name: value for name, value in request.build_args if value is not None}
    return list(dict.fromkeys(name for name in _named(_text(path), given) if "$" not in name))


def digest_of(engine: Engine, name: str) -> str:
    """Return the digest of an image by its name, from which its registry gives it: "" if it is unknown."""
    if "@" in name:
        return name.partition("@")[2]
    try:
        listed = engine.inspect(name).get("RepoDigests") or []
    except EngineError:
        return ""
    head, slash, last = name.rpartition("/")
    repository = f"{head}{slash}{last.partition(':')[0]}"
    pairs = sorted(each.partition("@")[::2] for each in listed if isinstance(each, str))
    own = [digest for place, digest in pairs if f"/{place}".endswith(f"/{repository}")]
    return next(iter(own or [digest for _, digest in pairs]), "")


def _named(text: str, given: dict[str, str]) -> Iterator[str]:
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    begun = False
    for line in re.sub(r"\\\s*\n", " ", text).splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        word, rest = found[1].upper(), found[2].strip()
        if word == "ARG" and not begun:
            arguments |= _values(rest, given)
            continue
        flags = dict(_FLAG.findall(rest))
        if word == "COPY":
            source = _replaced(flags.get("from", ""), arguments)
            if source and not source.isdecimal() and source.lower() not in stages:
                yield source
        elif word == "FROM" and (stage := _STAGE.match(_FLAG.sub("", rest))):
            begun = True
            name = _replaced(stage[1], arguments)
            if name.lower() not in stages and name != "scratch":
                yield name
            if stage[2]:
                stages.add(stage[2].lower())


def _values(text: str, given: dict[str, str]) -> dict[str, str]:
    """Return the arguments of an ARG that have a value: the one that was given, or else the default."""
    try:
        words = [each.partition("=") for each in shlex.split(text)]
    except ValueError:  # a quote that is not closed, which the build refuses
        return {}
    return {name: given.get(name, value) for name, equals, value in words if equals or name in given}


def _replaced(text: str, arguments: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[4]
        known = arguments.get(name)
        if known is None or (found[2] == ":-" and not known):
            return str(found[3]) if found[2] else (known if known is not None else found[0])
        return known

    return _VARIABLE.sub(value, text)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode("utf-8-sig", "replace")
    except OSError as error:
        raise SpecError(f"cannot read {path}", why=error.strerror or str(error)) from error
