"""What one bottle may reach, decided in one place for every way by which its connections arrive."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.network.asking import Questions
from bot_bottle.network.audit_log import Log, Request
from bot_bottle.network.dialing import Streams
from bot_bottle.network.policy import Policy, Verdict, load_policy
from bot_bottle.network.proxy.config import ReadingConfig
from bot_bottle.network.proxy.credentials import Credentials
from bot_bottle.network.proxy.metering import Answer, Meter
from bot_bottle.network.proxy.outside import Outside
from bot_bottle.network.proxy.upstream import Upstream
from bot_bottle.network.questions import ASKED
from bot_bottle.network.rules import address_of
from bot_bottle.network.usage import Budget

if TYPE_CHECKING:
    import ssl

    from bot_bottle.network.proxy.package_cache import PackageCache
    from bot_bottle.network.proxy.reading import Reader

SERVICES = ".bottle"  # names below it exist in a bottle only, and are those of `services`

_HTTPS = 443
_UPGRADE_REQUIRED = 426  # clients go on without WebSockets then
_TLS = 30.0  # seconds


class RefusedError(Exception):
    """A destination that may not be reached, or that cannot be. `status` is the one of HTTP."""

    def __init__(self, text: str, status: int = 403) -> None:
        super().__init__(text)
        self.status = status


class SpentError(RefusedError):
    """A request for which nothing of the bottle's budget is left."""


class Reading:
    """Loads what reads encrypted requests, when it is first needed: it takes long to load."""

    def __init__(self, config: ReadingConfig, authorities: str | None) -> None:
        self._config, self._authorities = config, authorities
        self._lock = asyncio.Lock()
        self._reader: Reader | None = None

    async def reader(self, engine: Engine) -> Reader:
        """Return it. Raises OSError, ValueError for authorities that cannot be read."""
        async with self._lock:
            if self._reader is None:
                name = "bot_bottle.network.proxy.reading"
                loop = asyncio.get_running_loop()
                module = await loop.run_in_executor(None, importlib.import_module, name)
                self._reader = module.Reader(engine, self._config, self._authorities)
            return self._reader


class Engine:
    """The policy of a bottle, its log, and the connections that are made for it.

    `services` are names with ports that lead to a socket of this machine (`127.0.0.1:5432`, or the path of a
    Unix socket). `credentials` are those that HTTPS requests get. `packages` is the cache of packages, for
    hosts that the policy says.
    """

    packages: PackageCache | None = None

    def __init__(
        self,
        policy: Path,
        log: Log,
        outside: Outside,
        *,
        services: Mapping[str, str],
        credentials: Credentials,
        questions: Questions | None = None,
        reading: Reading | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._path, self._read = policy, _stamp(policy)
        self._policy = load_policy(policy)
        self._log = log
        self._outside = outside
        self._services = services
        self._questions = questions or Questions(None)
        self.credentials = credentials
        self.reading = reading
        self.meter = meter or Meter(Budget(), None)

    @property
    def policy(self) -> Policy:
        """The policy in force: it is read again when `bottle allow` has changed it."""
        stamp = _stamp(self._path)
        if stamp != self._read:
            self._policy, self._read = load_policy(self._path), stamp
        return self._policy

    def record(self, request: Request) -> None:
        """Write a connection or request that has ended to the log."""
        self._log.write(request)

    def is_service(self, host: str) -> bool:
        """Return whether a name is one that exists in a bottle only."""
        return f".{host}".endswith(SERVICES)

    def services_at(self, port: int) -> list[str]:
        """Return the names of the services that are at a port."""
        found = (each.rpartition(":") for each in self._services)
        return [name for name, _, number in found if number == str(port)]

    def decide(self, host: str, port: int) -> Verdict:
        """Decide about a destination."""
        name = f"{host}:{port}"
        if name in self._services:
            return Verdict(allowed=True, rule=name)
        if self.is_service(host):
            return Verdict(allowed=False, reason="there is no such service in this bottle")
        return self.policy.decide(host, port)

    def reads(self, host: str, port: int) -> bool:
        """Return whether requests to a destination have to be read."""
        return (host in self.credentials and port == _HTTPS) or self.policy.reads(host, port)

    def caches(self, host: str, port: int) -> bool:
        """Return whether there may be files of a destination in the cache, so that it may not be needed."""
        return self.packages is not None and bool(self.policy.caches_at(host, port))

    def passes_unchecked(self, host: str, port: int) -> bool:
        """Return whether whatever is sent to a destination may pass: it was allowed as an address."""
        return self.is_service(host) or (not self.reads(host, port) and _is_address(host))

    async def permit(self, host: str, port: int) -> Verdict:
        """Decide about a destination, asking where that is wanted. Raises RefusedError, which is logged."""
        verdict = self.decide(host, port)
        if not verdict.allowed and not self.is_service(host):
            verdict = await self._ask(host, port, verdict)
        if not verdict.allowed:
            raise self.refuse(host, port, verdict.reason)
        return verdict

    async def _ask(self, host: str, port: int, verdict: Verdict) -> Verdict:
        if await self._questions.ask(host, port) == "no":
            return verdict
        now = self.decide(host, port)  # after `always` there is a rule
        return now if now.allowed else Verdict(allowed=True, rule=ASKED)

    def permit_request(
        self, host: str, port: int, method: str, path: str, given: Verdict | None = None
    ) -> Verdict:
        """Decide about a request to a destination, after `given`. Raises RefusedError, which is logged."""
        policy = self.policy
        if policy.restricts(host, port):
            verdict = policy.decide_request(host, port, method, path)
        elif given is not None and given.rule == ASKED:
            verdict = given
        else:
            verdict = self.decide(host, port)
        if not verdict.allowed:
            raise self.refuse(host, port, verdict.reason, method=method, path=path)
        return verdict

    def spend(self, host: str, port: int, method: str, path: str, *, switches: bool) -> Answer | None:
        """Count a request that may get a credential, and return what counts its answer; None for others.

        With `switches` it is for another protocol, as WebSockets. Raises RefusedError, which is logged.
        """
        if host not in self.credentials:
            return None
        if switches and self.meter.limits:
            reason = "another protocol than HTTP cannot be counted, and the bottle has a budget"
            refused = self.refuse(host, port, reason, method=method, path=path)
            raise RefusedError(str(refused), _UPGRADE_REQUIRED)
        if reason := self.meter.begin(method, path):
            refused = self.refuse(host, port, reason, method=method, path=path)
            raise SpentError(str(refused), 400)
        return self.meter.answer(method, path)

    def differs(self, asked: str, name: str, port: int) -> str:
        """Return why a name in TLS, or a request's Host, is not one for a connection to `asked`; else ""."""
        name = name.lower().removesuffix(".")
        if name == asked:
            return ""
        if self.reads(asked, port) or self.is_service(asked) or self.reads(name, port):
            return f"the connection was requested for {asked}"
        return self.decide(name, port).reason

    def refuse(self, host: str, port: int, reason: str, *, method: str = "", path: str = "") -> RefusedError:
        """Log a refusal, and return it as an error."""
        self.record(Request(host, port, "refused", reason, method=method, path=path))
        return RefusedError(f"{host}:{port}: {reason}; see bottle logs --egress")

    def fail(self, host: str, port: int, reason: str, seconds: float = 0.0) -> RefusedError:
        """Log that an allowed destination could not be reached in these seconds; return it as an error."""
        self.record(Request(host, port, "failed", reason, seconds=seconds))
        return RefusedError(f"{host}:{port}: {reason}", 502)

    async def connect(self, host: str, port: int) -> Streams:
        """Connect to an allowed destination. Raises RefusedError, which is logged."""
        return await self._connect(host, port, self._outside.upstream(host, port, "https"), plain=False)

    async def connect_for_requests(self, host: str, port: int) -> tuple[Streams, Upstream | None]:
        """Connect to where plain requests to an allowed destination go. Raises RefusedError.

        With an upstream proxy the connection is to that, which takes requests with the whole URL.
        """
        upstream = None if self.is_service(host) else self._outside.upstream(host, port, "http")
        return await self._connect(host, port, upstream, plain=True), upstream

    async def connect_with_tls(self, host: str, port: int, context: ssl.SSLContext) -> Streams:
        """Connect to an allowed destination, and begin TLS. Raises RefusedError, which is logged."""
        streams = await self.connect(host, port)
        try:
            async with asyncio.timeout(_TLS):
                await streams[1].start_tls(context, server_hostname=host)
        except OSError as error:
            streams[1].transport.abort()
            raise self.fail(host, port, f"TLS: {error or type(error).__name__}") from error
        return streams

    async def _connect(self, host: str, port: int, upstream: Upstream | None, *, plain: bool) -> Streams:
        begun = time.monotonic()
        try:
            if (place := self._services.get(f"{host}:{port}")) is not None:
                return await self._outside.connect_service(place)
            addresses = await self._outside.resolve(host, port, upstream)
            if addresses or upstream is None:
                addresses = self._allowed(host, port, addresses)
            return await self._outside.connect(host, port, addresses, upstream, plain=plain)
        except OSError as error:
            seconds = time.monotonic() - begun
            raise self.fail(host, port, str(error) or type(error).__name__, seconds) from error

    async def resolve(self, name: str, port: int) -> list[str]:
        """Return the addresses of a name; none if it has none."""
        try:
            return await self._outside.resolve(name, port)
        except OSError:
            return []

    def _allowed(self, host: str, port: int, addresses: list[str]) -> list[str]:
        """Return those addresses that an allowed name may have. Raises RefusedError if there is none."""
        if not addresses:
            raise self.fail(host, port, "it has no address")
        verdicts = [(address, self.policy.decide_resolved(address, port)) for address in addresses]
        allowed = [address for address, verdict in verdicts if verdict.allowed]
        if not allowed:
            raise self.refuse(host, port, verdicts[0][1].reason)
        return allowed


def _is_address(host: str) -> bool:
    try:
        return address_of(host) is not None
    except ValueError:
        return False


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
