"""The uid and gid of a bottle's command, of what its image's /etc/passwd and /etc/group say."""

from __future__ import annotations

from bot_bottle.errors import ImageError

UNKNOWN_USER = "correct USER in the Dockerfile, or name another with --user"
"""The next step where an image lacks the user of a command."""

_LARGEST = (1 << 32) - 2  # the next number means "no user"


def resolve(user: str, passwd: bytes, group: bytes) -> tuple[int, int]:
    """Return uid and gid. Raises ImageError for a name that the files do not have."""
    name, _, group_name = user.partition(":")
    lines = _lines(passwd, 7)
    if not name:
        uid, gid = 0, _own_group(lines, 0)
    elif (number := _number(name)) is not None:
        uid, gid = number, _own_group(lines, number)
    else:
        found = next((line for line in lines if line[0] == name), None)
        if found is None or (number := _number(found[2])) is None:
            raise ImageError(f"the image has no user {name!r}", next_step="use another --user")
        uid, gid = number, _number(found[3]) or 0
    if group_name:
        gid = _group(group_name, group)
    return uid, gid


def home_of(uid: int, passwd: bytes) -> str:
    """Return a user's home folder; that of one whom the file does not have is /."""
    found = next((line for line in _lines(passwd, 7) if _number(line[2]) == uid), None)
    return (found[5] if found else "") or ("/root" if uid == 0 else "/")


def _group(name: str, group: bytes) -> int:
    number = _number(name)
    if number is None:
        found = next((line for line in _lines(group, 4) if line[0] == name), None)
        number = _number(found[2]) if found else None
    if number is None:
        raise ImageError(f"the image has no group {name!r}", next_step="use another --user")
    return number


def _own_group(lines: list[list[str]], uid: int) -> int:
    found = next((line for line in lines if _number(line[2]) == uid), None)
    return (_number(found[3]) or 0) if found else 0


def _lines(text: bytes, fields: int) -> list[list[str]]:
    lines = (line.split(":") for line in text.decode("utf-8", "replace").splitlines())
    return [line for line in lines if len(line) >= fields - 1 and line[0]]


def _number(text: str) -> int | None:
    is_one = text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LARGEST
    return int(text) if is_one else None
