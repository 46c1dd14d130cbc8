"""Who `USER` of an image is: a name or number to the numbers that its /etc/passwd and /etc/group give it.

As docker does it: `user[:group]`, each a name or a number; a number needs no line; without a group it is the
user's own, 0 for a number without a line. Sources: passwd(5), group(5), the image specification's `User`.
"""

from __future__ import annotations

from bot_bottle.errors import ImageError

_LARGEST = (1 << 32) - 2  # the number above it means "no user"


def resolve(user: str, passwd: bytes, group: bytes) -> tuple[int, int]:
    """Give uid and gid. Raises ImageError for a name that the files do not have."""
    name, _, group_name = user.partition(":")
    lines = _lines(passwd, 7)
    if not name:
        uid, gid = 0, _own_group(lines, 0)
    elif (number := _number(name)) is not None:
        uid, gid = number, _own_group(lines, number)
    else:
        found = next((line for line in lines if line[0] == name), None)
        if found is None or (number := _number(found[2])) is None:
            raise ImageError(f"the image has no user {name!r}", next_step="give another with --user")
        uid, gid = number, _number(found[3]) or 0
    if group_name:
        gid = _group(group_name, group)
    return uid, gid


def _group(name: str, group: bytes) -> int:
    number = _number(name)
    if number is None:
        found = next((line for line in _lines(group, 4) if line[0] == name), None)
        number = _number(found[2]) if found else None
    if number is None:
        raise ImageError(f"the image has no group {name!r}", next_step="give another with --user")
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
