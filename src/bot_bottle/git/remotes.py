"""The remotes that a bottle may push to, and how git in the bottle finds them.

Inside, a remote is `http://git.bottle/NAME`. Its real URLs are replaced by that with `url.*.insteadOf`
(git-config(1)), which is passed in variables, so that no file in the bottle has to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from bot_bottle.errors import SpecError
from bot_bottle.host import process, redact
from bot_bottle.host.text import is_printable, printable
from bot_bottle.workspace.git import environment, program
from bot_bottle.workspace.spec import find_top

HOST, PORT = "git.bottle", 80
SERVICE = f"{HOST}:{PORT}"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCHEMES = ("https", "http", "ssh", "file")
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*::")  # gitremote-helpers(7): a program's name
_SCP = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>[^@/:]+):(?P<path>[^:].*)")
_DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22}
_CREDENTIALS = re.compile(r"(?<=://)[^@/\s]*@")
_LONGEST = 2000  # characters of a URL
_QUICK = 60.0  # seconds


class Remote(Struct, frozen=True):
    """A remote of the user's repository: what `fetch` and `push` use, which may have credentials in them."""

    name: str
    fetch: str
    push: str

    @property
    def shown(self) -> str:
        """Where it is pushed to, without credentials."""
        return without_credentials(self.push)

    @property
    def shown_fetch(self) -> str:
        """Where it is fetched from, without credentials."""
        return without_credentials(self.fetch)

    @property
    def inside(self) -> str:
        """The URL of the remote in the bottle."""
        return f"http://{HOST}/{self.name}"

    def spellings(self) -> list[str]:
        """Return the URLs by which git in the bottle may ask for it, none with a password."""
        found = [each for url in (self.fetch, self.push) for each in _spellings(url)]
        return list(dict.fromkeys(found))


def without_credentials(text: str) -> str:
    """Return a text without the user and password of the URLs in it."""
    return _CREDENTIALS.sub("", text)


def find_remotes(start: Path, names: Sequence[str]) -> tuple[Remote, ...]:
    """Return remotes of the repository that a folder is in, by their names. Raises SpecError."""
    if not names:
        return ()
    top = find_top(start)
    if top is None:
        raise SpecError(
            f"--git-push {printable(names[0], limit=60)}: {start.absolute()} is not in a git repository",
            next_step="run it in the repository whose remote it is",
        )
    return tuple(_find(top, name) for name in dict.fromkeys(names))


def _find(top: Path, name: str) -> Remote:
    if not _NAME.fullmatch(name) or name.endswith(".git"):
        raise SpecError(f"invalid name of a remote: {printable(name, limit=60)}", next_step="see git remote")
    fetch = _configured(top, f"remote.{name}.url")
    if not fetch:
        raise SpecError(
            f"{top} has no remote {name}", next_step="see git remote; git remote add NAME URL makes one"
        )
    push = _configured(top, f"remote.{name}.pushurl") or fetch
    if len(fetch) > 1 or len(push) > 1:
        raise SpecError(
            f"the remote {name} has several URLs",
            why="a push to several is not all or nothing",
            next_step="name a remote that has one URL",
        )
    return Remote(name, _checked(top, name, fetch[0]), _checked(top, name, push[0]))


def _configured(top: Path, key: str) -> list[str]:
    """Return the values of a setting, read as git in the folder would. No program is run by this."""
    env = {key: value for key, value in environment().items() if not key.startswith("GIT_CONFIG_")}
    asked = [program(), "config", "-z", "--get-all", key]
    done = process.run(asked, timeout=_QUICK, check=False, env=env, cwd=top)
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


def _checked(top: Path, name: str, url: str) -> str:
    """Return the URL as it is used outside: a path is made absolute. Raises SpecError."""
    refusal = ""
    if not is_printable(url) or not 0 < len(url) <= _LONGEST:
        refusal = "it is not printable text, or too long"
    elif url.startswith("-"):
        refusal = "it begins with -"
    elif _HELPER.match(url):
        refusal = "it names a program"
    elif "://" in url and url.partition("://")[0].lower() not in SCHEMES:
        refusal = f"only {', '.join(SCHEMES)} can be used"
    if refusal:
        raise SpecError(
            f"the URL of the remote {name} cannot be used: {refusal}",
            why=printable(without_credentials(url), limit=200),
        )
    if "://" in url:
        password = urlsplit(url).password
        if password:
            redact.hide(password)
        return url
    if _scp_like(url):
        return url
    return str((top / url).resolve())


def _scp_like(url: str) -> re.Match[str] | None:
    """Return the parts of `[user@]host:path`; a slash before the colon makes it a path (git-clone(1))."""
    return None if "://" in url or "/" in url.partition(":")[0] else _SCP.fullmatch(url)


def _spellings(url: str) -> list[str]:
    """Return a URL and the other forms in which the same repository of a forge is named.

    `insteadOf` replaces the beginning of a URL, so other forms end with `.git`: `host/one` is not to replace
    that of `host/one-more`.
    """
    if scp := _scp_like(url):
        host, path, user, port = scp["host"], scp["path"], scp["user"] or "git", None
    elif "://" in url and not url.startswith("file:"):
        parts = urlsplit(url)
        host, path, user = parts.hostname or "", parts.path, parts.username or "git"
        port = parts.port if parts.port != _DEFAULT_PORTS.get(parts.scheme) else None
        if parts.password is not None or (parts.username and parts.scheme != "ssh"):
            url, user = without_credentials(url), "git"
    else:
        path = url.removeprefix("file://")
        return [path, f"file://{path}"]
    if port is not None or not host:
        return [url]
    place = path.strip("/").removesuffix(".git") + ".git"
    return [url, f"https://{host}/{place}", f"ssh://{user}@{host}/{place}", f"{user}@{host}:{place}"]


def variables(remotes: Iterable[Remote], proxy: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a bottle in which git reaches remotes through a proxy (its URL).

    `env` are variables that the bottle has anyway: settings in them are extended, not replaced.
    """
    settings = [(f"url.{remote.inside}.insteadOf", url) for remote in remotes for url in remote.spellings()]
    if not settings:
        return {}
    settings.append((f"http.http://{HOST}/.proxy", proxy))
    given = env.get("GIT_CONFIG_COUNT", "")
    first = int(given) if given.isdecimal() and len(given) < 5 else 0
    found = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings, first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found
