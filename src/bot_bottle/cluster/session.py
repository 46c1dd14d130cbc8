"""The connection to a cluster, and what Ray says turned into our errors."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from bot_bottle.cluster.access import asks_for_token, no_token, not_connected
from bot_bottle.cluster.address import Address, is_loopback
from bot_bottle.errors import ClusterError, UsageError

NAMESPACE = "bot-bottle"

_ANSWER = 60.0  # seconds for an answer of what works on the head
_CONNECTED = 10.0  # seconds that a connection nobody needs any more may take until it can be closed


class Session:
    """A connection. `ray` is the module."""

    def __init__(self, ray: Any, address: Address) -> None:
        self.ray = ray
        self.address = address

    def nodes(self) -> list[dict[str, Any]]:
        """Return Ray's descriptions of the nodes that are alive."""
        return [node for node in self.ray.nodes() if node.get("Alive")]

    @property
    def is_local(self) -> bool:
        """Whether the cluster can only be reached from this machine: all of it is on loopback addresses."""
        hosts = [str(node["NodeManagerAddress"]) for node in self.nodes()]
        return all(map(is_loopback, [*hosts, *([self.address.host] if self.address.host else [])]))

    def get(self, reference: Any, seconds: float = _ANSWER) -> Any:
        """Return the value of a reference. Raises ClusterError where the head does not answer."""
        try:
            return self.ray.get(reference, timeout=seconds)
        except (self.ray.exceptions.GetTimeoutError, ConnectionError) as error:
            raise ClusterError(
                f"the cluster {self.address} did not answer within {seconds:g} s",
                next_step="see ray status; bottle ls --on finds the fan again",
            ) from error
        except self.ray.exceptions.RayActorError as error:
            raise ClusterError(
                "the fan on the cluster has ended", why=first_line(error), next_step="see ray status"
            ) from error

    def actors(self) -> list[str]:
        """Return the names of our actors."""
        listed = self.ray.util.list_named_actors(all_namespaces=True)
        return [str(each["name"]) for each in listed if each["namespace"] == NAMESPACE]


@contextmanager
def connected(address: Address) -> Iterator[Session]:
    """Connect to a cluster for the block. Raises ClusterError, and UsageError where Ray is not installed."""
    with connecting(address) as session:
        yield session()


@contextmanager
def connecting(address: Address) -> Iterator[Callable[[], Session]]:
    """Begin to connect to a cluster, and yield what waits for the connection, which the block closes.

    A cluster that does not answer, or wants another token or TLS, is found out before. Raises ClusterError,
    and so does what is yielded; UsageError where Ray is not installed.
    """
    ray = _load()
    logging.getLogger("ray").setLevel(logging.ERROR)
    asked = asks_for_token(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    made = _begin(ray, address)

    def session() -> Session:
        with _explained(ray, address):
            made.result()
        opened = Session(ray, address)
        if not asked and not opened.is_local:
            raise no_token(address)
        return opened

    try:
        yield session
    finally:
        wait([made], _CONNECTED)
        ray.shutdown()


def _load() -> Any:
    """Return the module `ray`. Raises UsageError where it is not installed."""
    try:
        import grpc  # noqa: F401 - Ray's client needs it, and `access`
        import ray
    except ImportError as error:
        raise UsageError(
            "--on needs Ray, which is not installed here",
            why=str(error),
            next_step="pip install 'bot-bottle[ray]'",
        ) from error
    return ray


def _begin(ray: Any, address: Address) -> Future[None]:
    """Begin to connect: in a thread where the head starts a server for us first, which takes seconds."""
    made: Future[None] = Future()

    def connect() -> None:
        try:
            _init(ray, address)
        except BaseException as error:  # it is raised where the connection is needed
            made.set_exception(error)
        else:
            made.set_result(None)

    if address.host:
        Thread(target=connect, daemon=True).start()
    else:
        with _explained(ray, address):
            _init(ray, address)
        made.set_result(None)
    return made


@contextmanager
def _explained(ray: Any, address: Address) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _not_connected(address, error) from error


def _silence() -> None:
    """Prevent Ray from printing warnings, and what it reports of dead nodes and workers."""
    warnings.filterwarnings("ignore", module=r"ray\.")
    with suppress(ImportError):
        from ray._private import worker

        vars(worker).update(print_to_stdstream=lambda *_, **__: None)


def _end_logs_at_once() -> None:
    """Prevent Ray's client from waiting for the end of its logs, which we do not use.

    When a connection fails, that end may never come, and neither would the failure.
    """
    from ray.util.client import logsclient

    logs: Any = logsclient.LogstreamClient
    logs.close = lambda self: self.request_queue.put(None)


def _leave_at_once() -> None:
    """Prevent Ray's client from waiting for the end of its server once that has taken the request to end."""
    from ray.util.client import dataclient

    client: Any = dataclient.DataClient
    process = client._process_response

    def process_response(self: Any, response: Any) -> None:
        process(self, response)
        if response.WhichOneof("type") == "connection_cleanup":  # it has
            raise SystemExit  # ends the thread that is waited for

    client._process_response = process_response


def _init(ray: Any, address: Address) -> None:
    _silence()
    if address.host:
        _end_logs_at_once()
        _leave_at_once()
    options = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address.ray, **options)
    except ConnectionAbortedError:  # the head has not started a server for us in time: it is busy
        ray.init(address.ray, **options)


def _not_connected(address: Address, error: Exception) -> ClusterError:
    if address.host or "connect" in str(error):
        return not_connected(address, first_line(error))
    return ClusterError(
        "there is no Ray cluster on this machine",
        why=first_line(error),
        next_step="start one: ray start --head --node-ip-address 127.0.0.2 $(bottle node --options)",
    )


def first_line(error: BaseException) -> str:
    """Return the line of what Ray says that says it: the first, or the last of a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if any("Traceback" in line for line in lines) else 0][:300]
