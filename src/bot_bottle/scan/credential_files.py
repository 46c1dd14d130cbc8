"""Credential files, recognized by their path, and variables of secrets, recognized by their name.

`bottle pack` checks nothing else. A file counts when its content has a secret: an .npmrc without a token does
not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

LARGEST = 256 << 10  # bytes of such a file

_URL_PASSWORD = rb"://[^\s:/@]*:[^\s@/]+@"
_KEY = rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"

# the end of a path, and the content that makes the file a secret
_FILES = {
    r"\.env(\.[\w-]+)?": rb"(?im)^\s*(?:export )?\w*(?:key|token|secret|passw\w*)[ \t]*=[ \t\"']*[^\s\"'$<{]",
    r"[._]netrc": rb"(?i)\bpassword\s+\S",
    r"\.git-credentials": _URL_PASSWORD,
    r"\.git/config": _URL_PASSWORD,
    r"\.aws/credentials": rb"(?i)aws_(?:secret_access_key|session_token)[ \t]*=[ \t]*\S",
    r"\.docker/config\.json": rb"\"(?:auth|identitytoken)\"\s*:\s*\"[^\"]",
    r"\.npmrc": rb"(?im)_(?:authToken|password|auth)[ \t]*=[ \t]*[\"']?[^\s\"'$]",
    r"\.yarnrc\.yml": rb"(?im)npmAuth(?:Token|Ident):[ \t]*[\"']?[^\s\"'$]",
    r"\.pypirc": rb"(?im)^\s*password[ \t]*[:=][ \t]*\S",
    r"\.kube/config": rb"(?m)^\s*(?:token|client-key-data|password):[ \t]*\S",
    r"\.config/gh/hosts\.yml": rb"(?m)oauth_token:[ \t]*\S",
    r"\.(claude|codex)/(\.credentials|auth)\.json": rb"(?i)\"\w*(?:token|key)\"\s*:\s*\"[^\"]",
    r"\.vault-token": rb"\S",
    r"\.pgpass": rb"(?m)^(?:[^:\n]*:){4}\S",
    r"id_(rsa|dsa|ecdsa|ed25519)": _KEY,
    r"[^/]+\.(pem|key|ppk)": _KEY,
}
_PATH = re.compile(rf"(?:\A|/)(?:{'|'.join(f'(?P<f{number}>{end})' for number, end in enumerate(_FILES))})\Z")
_CONTENTS = list(_FILES.values())

_NAME = re.compile(
    r"(?i)(token|secret|passw(or)?d|api_?key|access_?key|private_?key|credentials?)(_?[0-9a-z]{0,3})\Z"
)
_NO_VALUE = re.compile(r"(?i)[\"']?(\$.*|<.*>|/.*|true|false|none|null|0|1)?[\"']?")
_ASSIGNED = re.compile(r"(?<![\w-])([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\S*)")


class Finding(Struct, frozen=True, order=True):
    """Where something looks like a secret, and of which kind: never the value.

    `layer` is a digest, or `config`, `history` or `root`. `line` is 0 where there are no lines.
    """

    layer: str
    path: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.path}{f':{self.line}' if self.line else ''}: {self.kind}"


def is_known(path: str) -> bool:
    """Return whether a path is one of a credential file."""
    return _PATH.search(path) is not None


def in_file(path: str, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield the lines of a credential file that contain a secret, and their kinds."""
    found = _PATH.search(path)
    if found is None:
        return
    number = next(n for n in range(len(_CONTENTS)) if found[f"f{n}"] is not None)
    for match in re.finditer(_CONTENTS[number], content):
        start = match.end() - 1  # a pattern may begin with the line breaks before
        yield content.count(b"\n", 0, start) + 1, "credentials in a credential file"


def in_variables(env: Iterable[str], layer: str) -> Iterator[Finding]:
    """Yield the variables of an image that are secrets by their name."""
    for item in env:
        name, _, value = item.partition("=")
        if _NAME.search(name) and not _NO_VALUE.fullmatch(value):
            yield Finding(layer, f"ENV {name}", 0, "a variable named as a secret")


def in_command(text: str) -> bool:
    """Return whether a line of history sets a variable or build argument that is a secret by its name."""
    return any(
        _NAME.search(name) and not _NO_VALUE.fullmatch(value) for name, value in _ASSIGNED.findall(text)
    )
