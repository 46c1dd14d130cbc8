"""Requests to one registry: redirects, logins, and errors in the registry's own words.

Source: OCI distribution-spec v1.1, "Error Codes"; RFC 9110, 15.4 (redirects).
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any
from urllib import request
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit

from bot_bottle.errors import RegistryError
from bot_bottle.host.text import printable
from bot_bottle.image.spec import Digest
from bot_bottle.remote.docker_logins import Login, find_login
from bot_bottle.remote.reference import Reference, is_loopback
from bot_bottle.remote.retry import BUSY, Retry
from bot_bottle.remote.tokens import Authorization, answer_challenge

SECONDS = 30.0  # without any data
_LARGEST = 4 << 20  # bytes of a manifest or another document
_REDIRECTS = 5
_CHALLENGES = 2  # the first token may have ended before it was used
_REDIRECTED = (301, 302, 303, 307, 308)

Body = bytes | Callable[[], Iterable[bytes]]


class UnreachableError(RegistryError):
    """The registry does not answer, or its answer ended early."""


class BusyError(RegistryError):
    """The registry says that it is busy or out of order. `stated` is its header Retry-After, or ""."""

    stated = ""


class Answer:
    """An answer whose body is read in pieces. A context manager."""

    def __init__(self, host: str, url: str, status: int, raw: http.client.HTTPResponse) -> None:
        self.url = url
        self.status = status
        self._host = host
        self._raw = raw

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def header(self, name: str) -> str:
        """Return a header, or "" where it is missing."""
        return ", ".join(self._raw.headers.get_all(name, []))

    def some(self, count: int) -> bytes:
        """Return what comes next, `count` bytes at most; b"" at the end. Raises UnreachableError."""
        try:
            return self._raw.read1(count)
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._host, error) from error

    def document(self, limit: int = _LARGEST) -> bytes:
        """Return the whole body. Raises RegistryError where it is too large."""
        pieces, size = [], 0
        while piece := self.some(1 << 20):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise RegistryError(
                    f"{self._host} sent more than {limit} bytes, where a document was asked for"
                )
        return b"".join(pieces)


class Session:
    """Requests about one repository.

    `seconds` is how long it may send nothing, `retry` how long it is waited for while it is busy.
    """

    def __init__(self, reference: Reference, seconds: float = SECONDS, retry: Retry | None = None) -> None:
        self.reference = reference
        self.host = reference.host
        self.seconds = seconds
        self.retry = retry or Retry()
        self._plain = reference.is_loopback
        self._authorization: Authorization | None = None

    @cached_property
    def login(self) -> Login | None:
        """docker's login for the registry. Raises RegistryError."""
        return find_login(self.host)

    @cached_property
    def _opener(self) -> request.OpenerDirector:
        opener = request.OpenerDirector()
        proxies: dict[str, str] | None = {} if self._plain else None
        handlers = (
            request.ProxyHandler(proxies),  # None: those of the environment
            request.HTTPHandler(),
            request.HTTPSHandler(context=ssl.create_default_context()),
            request.UnknownHandler(),
        )
        for handler in handlers:
            opener.add_handler(handler)
        return opener

    def ask(
        self,
        method: str,
        place: str,
        body: Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        wanted: tuple[int, ...] = (200,),
    ) -> Answer:
        """Make a request to a path below the repository, or a URL that the registry gave.

        Raises RegistryError for another status than those `wanted`, UnreachableError without an answer.
        """
        url = place if place.startswith(("http://", "https://")) else f"{self.reference.url}/{place}"
        if self._authorization is not None and not self._authorization.valid:
            self._authorization = None
        answer = self._followed(method, url, body, headers or {})
        for _ in range(_CHALLENGES):
            if answer.status != 401 or not self._is_own(answer.url):
                break
            with answer:
                self._authorize(answer.header("WWW-Authenticate"), method)
            answer = self._followed(method, url, body, headers or {})
        if answer.status not in wanted:
            with answer:
                raise self._refused(method, answer)
        return answer

    def location(self, answer: Answer, asked: str) -> str:
        """Return the URL in an answer's header Location. Raises RegistryError where it may not be asked."""
        url = urljoin(f"{self.reference.url}/{asked}", answer.header("Location"))
        parts = urlsplit(url)
        if not (parts.scheme == "https" or (parts.scheme == "http" and self._plain and is_loopback(url))):
            raise RegistryError(f"{self.host} redirects to a connection that is not encrypted")
        return url

    def _followed(self, method: str, url: str, body: Body, headers: Mapping[str, str]) -> Answer:
        for _ in range(_REDIRECTS + 1):
            answer = self._send(method, url, body, headers)
            if (
                answer.status not in _REDIRECTED
                or method not in ("GET", "HEAD")
                or not answer.header("Location")
            ):
                return answer
            with answer:
                url = self.location(answer, "")
        raise RegistryError(f"{self.host} redirects too often")

    def _send(self, method: str, url: str, body: Body, headers: Mapping[str, str]) -> Answer:
        fields = {"User-Agent": "bot-bottle", "Accept": "*/*", **headers}
        # the login is the registry's alone; where it stores its blobs has its own
        if self._authorization is not None and self._is_own(url):
            fields["Authorization"] = self._authorization.value.reveal()
        return self._raw(method, url, body, fields)

    def _raw(self, method: str, url: str, body: Body, fields: Mapping[str, str]) -> Answer:
        """Make a request, and again while the server is busy. Raises UnreachableError, BusyError."""
        tries = 1
        while (answer := self._once(method, url, body, fields)).status in BUSY:
            error = self._busy(method, answer)
            # nobody knows how much of a chunk is there: who sends it asks first
            if method == "PATCH" or not self.retry.pause(error.message, tries, error.stated):
                raise error
            tries += 1
        return answer

    def _once(self, method: str, url: str, body: Body, fields: Mapping[str, str]) -> Answer:
        data: Any = (body if isinstance(body, bytes) else body()) if method not in ("GET", "HEAD") else None
        asked = request.Request(url, data=data, headers=dict(fields), method=method)  # noqa: S310 - checked
        try:
            raw: Any = self._opener.open(asked, timeout=self.seconds)
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(urlsplit(url).netloc, error) from error
        return Answer(self.host, url, raw.status, raw)

    def _is_own(self, url: str) -> bool:
        own, other = urlsplit(self.reference.url), urlsplit(url)
        return (own.scheme, own.hostname, own.port) == (other.scheme, other.hostname, other.port)

    def _authorize(self, challenge: str, method: str) -> None:
        actions = "pull" if method in ("GET", "HEAD") else "pull,push"
        scope = f"repository:{self.reference.repository}:{actions}"
        self._authorization = answer_challenge(
            self.host, challenge, self.login, scope, self._fetch, plain=self._plain
        )

    def _fetch(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        with self._raw(method, url, body, {"User-Agent": "bot-bottle", **headers}) as answer:
            return answer.status, answer.document()

    def _busy(self, method: str, answer: Answer) -> BusyError:
        host = printable(urlsplit(answer.url).netloc, limit=200)
        with answer:
            error = BusyError(
                f"the registry {host} is busy or out of order",
                why=_why(method, answer),
                next_step="try again later",
            )
        error.stated = answer.header("Retry-After")
        return error

    def _refused(self, method: str, answer: Answer) -> RegistryError:
        reference, status = self.reference, answer.status
        why = _why(method, answer)
        if status in (401, 403):
            verb = "read" if method in ("GET", "HEAD") else "write to"
            return RegistryError(
                f"{self.host} does not let you {verb} {reference.repository}",
                why=why,
                next_step=f"docker login {self.host}",
            )
        if status == 404:
            step = "check its name and its tag"
            return NotThereError(f"{reference} is not in the registry", why=why, next_step=step)
        return RegistryError(f"{self.host} refused a request about {reference.repository}", why=why)


class NotThereError(RegistryError):
    """The registry does not have it."""


def read_blob(session: Session, digest: Digest, limit: int) -> bytes:
    """Return a small blob, whose digest is checked. Raises RegistryError."""
    with session.ask("GET", f"blobs/{digest}") as answer:
        data = answer.document(limit)
    if Digest.of(data, digest.algorithm) != digest:
        raise RegistryError(f"{session.host} sent other bytes than those of {digest}")
    return data


def unreachable(host: str, error: Exception) -> UnreachableError:
    """Return the error of a registry that does not answer."""
    reason = getattr(error, "reason", error)
    return UnreachableError(
        f"the registry {printable(host, limit=200)} does not answer",
        why=printable(str(reason) or repr(reason), limit=300),
        next_step="check its name, and the network",
    )


def _why(method: str, answer: Answer) -> str:
    """Return an answer's status, and what it says of the reason."""
    words = _words(answer.document(1 << 16)) if method != "HEAD" else ""
    asked = printable(answer.header("Retry-After"), limit=40)
    again = f" (Retry-After: {asked})" if asked else ""
    return ": ".join(filter(None, (str(answer.status), words))) + again


def _words(body: bytes) -> str:
    """Return the codes and messages of an error, in the specification's form, or the body's beginning."""
    try:
        errors = json.loads(body)["errors"]
        found = [f"{each['code']} {each.get('message') or ''}".strip() for each in errors[:3]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return printable(body[:200].strip())
    return printable("; ".join(found), limit=300)
