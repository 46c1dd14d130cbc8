"""Secrets by reference: where a value is. The value itself is only read when a bottle starts.

A reference names a variable of the host, a file, or an entry of the keychain. It may be shown, stored and
compared; the value is read once, wrapped in a `Secret`, and written nowhere.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from msgspec import Struct

from bot_bottle.errors import CommandError, SecretError, SpecError
from bot_bottle.host import paths, process
from bot_bottle.host.redact import Secret, hide_variable

Kind = Literal["env", "file", "keychain", "login"]
KINDS: tuple[Kind, ...] = ("env", "file", "keychain", "login")

LARGEST = 64 << 10  # bytes of a value; a variable of a program has 128 KiB at most

R = TypeVar("R", bound="Reference")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_ENTRY = re.compile(r"[^/\0-\x1f-][^/\0-\x1f]*/[^/\0-\x1f]+")
_LOGIN = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HOST = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TIMEOUT = 60.0  # seconds; a keychain may ask the user


class Reference(Struct, frozen=True):
    """Where the value of the guest's variable `name` is, and the `hosts` that may receive it.

    Without hosts the command gets it as a variable. With `body` the value is also put into the bodies of
    requests to them. Raises SpecError for an invalid reference.
    """

    name: str
    kind: Kind
    place: str
    hosts: tuple[str, ...] = ()
    body: bool = False

    names: ClassVar[re.Pattern[str]] = _VARIABLE
    rule: ClassVar[str] = "the id of a secret is a variable's name: letters, digits and _"
    example: ClassVar[str] = "--secret id=API_KEY,env=API_KEY or --secret id=API_KEY,src=FILE"

    def __post_init__(self) -> None:
        if not self.names.fullmatch(self.name):
            raise SpecError(self.rule, next_step=f"for example {self.example}")
        good = {
            "env": bool(_VARIABLE.fullmatch(self.place)),
            "file": bool(self.place) and "\0" not in self.place,
            "keychain": bool(_ENTRY.fullmatch(self.place)),
            "login": bool(_LOGIN.fullmatch(self.place)),
        }
        if not good[self.kind]:
            form = {"env": "a variable's name", "file": "a path", "keychain": "service/account"}
            form["login"] = "the name of an agent"
            raise SpecError(f"the secret {self.name}: {self.kind} takes {form[self.kind]}")
        for host in self.hosts:
            if not _HOST.fullmatch(host):
                raise SpecError(
                    f"the secret {self.name}: invalid host name: {host[:80]!r}",
                    next_step="write each host in full and in lower case, for example api.example.org",
                )
        if self.body and not self.hosts:
            raise SpecError(
                f"the secret {self.name}: body needs hosts",
                why="it is about what the proxy puts into requests to them",
            )

    def described(self) -> dict[str, Any]:
        """Return what plans and records contain: neither the value nor where it is."""
        body = {"body": True} if self.body else {}
        return {"name": self.name, "kind": self.kind, "hosts": list(self.hosts), **body}

    def __str__(self) -> str:
        bodies = ", bodies too" if self.body else ""
        return f"{self.kind} {self.place}{' for ' if self.hosts else ''}{', '.join(self.hosts)}{bodies}"


def parse(items: Iterable[str]) -> dict[str, Reference]:
    """Parse `--secret id=NAME[,env=VARIABLE|,src=FILE|,keychain=SERVICE/ACCOUNT][,host=HOST...][,body=true]`.

    The form is docker's; `id=NAME` alone is the variable of that name. Raises SpecError, which never repeats
    the input: it may be the value.
    """
    references = [parse_one(item, Reference) for item in items]
    return {each.name: each for each in references}


def parse_one(item: str, kind_of: type[R]) -> R:
    """Parse one of them. Raises SpecError."""
    import csv  # only here: most commands have no secret

    write = f"write {kind_of.example}"
    fields: dict[str, list[str]] = {}
    for part in next(csv.reader([item]), []):
        key, equals, value = part.partition("=")
        key = {"source": "src"}.get(key, key)
        if not equals or key not in ("id", "type", "env", "src", "keychain", "login", "host", "body"):
            raise SpecError("not a secret reference", next_step=write)
        fields.setdefault(key, []).append(value)
    hosts = tuple(fields.pop("host", ()))
    if any(len(values) > 1 for values in fields.values()):
        raise SpecError("each key may be given once, except host", next_step=write)
    single = {key: values[0] for key, values in fields.items()}
    name, kind = single.pop("id", ""), single.pop("type", "")
    body = single.pop("body", "false")
    if body not in ("true", "false"):
        raise SpecError("body is true or false", next_step=write)
    places = {"file" if key == "src" else key: value for key, value in single.items()}
    if not places and kind != "file":
        places = {"env": name}
    if kind and kind not in places:
        raise SpecError(f"the secret {_named(name)}: its type does not match its source")
    return make_reference(name, places, hosts, kind_of, body=body == "true")


def make_reference(
    name: str,
    places: Mapping[str, str | None],
    hosts: Sequence[str],
    kind_of: type[R],
    *,
    body: bool = False,
) -> R:
    """Make a reference from the place of one kind. Raises SpecError unless exactly one is given."""
    found = [(kind, place) for kind in KINDS if (place := places.get(kind)) is not None]
    if len(found) != 1:
        raise SpecError(
            f"the secret {_named(name)} needs exactly one source",
            next_step="give one of env, file (src) and keychain",
        )
    kind, place = found[0]
    return kind_of(name, kind, place, tuple(hosts), body)


def _named(name: str) -> str:
    return name if _VARIABLE.fullmatch(name) else "(no name)"


def resolve(references: Iterable[Reference]) -> dict[str, Secret]:
    """Read every value. Raises SecretError, which says where a value should be, and never contains one."""
    return {each.name: Secret(_checked(each, read(each))) for each in references}


def read(reference: Reference) -> str:
    """Return the value as it is stored. It is not hidden in output yet. Raises SecretError."""
    if reference.kind == "login":
        raise SecretError(f"the secret {reference.name}: a login is for a bottle with hosts only")
    return _READ[reference.kind](reference)


def _checked(reference: Reference, value: str) -> str:
    """Return a value without trailing line breaks: files end with one, and smolvm removes them."""
    value = value.rstrip("\n")
    if not value:
        raise SecretError(f"the secret {reference.name} is empty", why=f"it was read from {reference}")
    if "\0" in value:
        raise SecretError(f"the secret {reference.name} contains a NUL byte, which a variable cannot")
    if len(value.encode("utf-8", "replace")) > LARGEST:
        raise _too_large(reference)
    return value


def _of_variable(reference: Reference) -> str:
    if reference.place not in os.environ:
        raise SecretError(
            f"the secret {reference.name} is not there: no variable {reference.place} is set",
            next_step=f"export {reference.place}, or use another source",
        )
    hide_variable(reference.place)
    value = os.environ[reference.place]
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _not_text(reference) from None
    return value


def _of_file(reference: Reference) -> str:
    path = expanded(reference.place)
    try:
        return read_file(reference, path, LARGEST + 2).decode()  # enough to see that it is too large
    except UnicodeDecodeError:
        raise _not_text(reference) from None


def expanded(place: str) -> Path:
    """Return the path of a file, in which ~/ is expanded."""
    home = paths.home_dir()
    if home and (place == "~" or place.startswith("~/")):
        return home / place[2:]
    return Path(os.path.expanduser(place))  # noqa: PTH111 - pathlib raises where ~ has no owner


def read_file(reference: Reference, path: Path, limit: int) -> bytes:
    """Return the first `limit` bytes of a file. Raises SecretError."""
    try:
        with os.fdopen(_open(path, reference), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SecretError(f"the secret {reference.name}: {path} is not a regular file")
            return file.read(limit)
    except OSError as error:
        raise SecretError(
            f"the secret {reference.name} cannot be read from {path}", why=error.strerror or ""
        ) from error


def _open(path: Path, reference: Reference) -> int:
    """Open a file that is not a link, or a link that stays in its folder.

    Other users who may write to the folder could otherwise expose any file of the caller under this name;
    links beside the file, with which secret stores swap values, cannot do that.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO would block
    if path.is_symlink():
        folder, target = path.parent.resolve(), path.resolve()
        if not target.is_relative_to(folder):
            raise SecretError(
                f"the secret {reference.name}: {path} is a link to another folder",
                next_step="give the path of the file itself",
            )
        path = target
    return os.open(path, flags)


def _of_keychain(reference: Reference) -> str:
    """Read from the keychain, as the `keyring` programs store it: by service and user name."""
    service, _, account = reference.place.partition("/")
    if sys.platform == "darwin":
        argv = ["security", "find-generic-password", "-w", "-s", service, "-a", account]
    else:
        argv = ["secret-tool", "lookup", "service", service, "username", account]
    if process.find(argv[0]) is None:
        raise SecretError(
            f"the secret {reference.name}: there is no keychain program",
            why=f"{argv[0]} is not installed",
            next_step="install it (Debian: libsecret-tools), or use env or src",
        )
    try:
        found = process.run(argv, timeout=_TIMEOUT, check=False)
    except CommandError as error:
        raise SecretError(f"the secret {reference.name}: the keychain did not answer") from error
    if found.code:
        raise SecretError(
            f"the secret {reference.name} is not in the keychain as {reference.place}",
            why=found.stderr.decode("utf-8", "replace")[:500],
        )
    try:
        return found.stdout.decode()
    except UnicodeDecodeError:
        raise _not_text(reference) from None


def _too_large(reference: Reference) -> SecretError:
    return SecretError(f"the secret {reference.name} is too large: the limit is {LARGEST >> 10} KiB")


def _not_text(reference: Reference) -> SecretError:
    return SecretError(f"the secret {reference.name} is not UTF-8 text")


_READ = {"env": _of_variable, "file": _of_file, "keychain": _of_keychain}
