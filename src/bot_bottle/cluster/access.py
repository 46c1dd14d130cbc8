"""What a cluster asks of its callers, found out before Ray connects: Ray itself waits for half a minute."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bot_bottle.cluster.address import Address
from bot_bottle.errors import ClusterError

if TYPE_CHECKING:
    import grpc

_PATIENCE = 5.0  # seconds in which a port has to answer


def protections() -> tuple[str, ...]:
    """Return what protects the cluster that this process belongs to: `token`, `tls`."""
    tls = os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")
    on = {"token": os.environ.get("RAY_AUTH_MODE") == "token", "tls": tls}
    return tuple(name for name, is_on in on.items() if is_on)


def asks_for_token(address: Address) -> bool:
    """Return whether a cluster refuses callers without a token.

    Raises ClusterError where nothing answers, and where the token or TLS here are not the cluster's.
    """
    if not address.host:
        _check_local(address)
        return "token" in protections()
    import grpc

    _check_port(
        address,
        f"no cluster answers at {address}",
        "give the port of Ray's client server, 10001 unless ray start was given another",
    )
    try:
        error = _ping(address, _ask_server, with_token=False)
        asked = error is not None and error.code() is grpc.StatusCode.UNAUTHENTICATED
        if asked and (error := _ping(address, _ask_server, with_token=True)):
            raise not_connected(address, error.details() or "") from error
    except (RuntimeError, OSError) as failure:  # the files of its certificates are missing
        raise not_connected(address, str(failure)) from failure
    if error is not None and error.code() is grpc.StatusCode.UNAVAILABLE:
        _check_tls(address, error.details() or "")
    return asked or (error is not None and "token" in protections())  # else Ray says what it is


def _check_local(address: Address) -> None:
    """Raise ClusterError where the head of this machine's cluster does not answer, or wants another token.

    Ray itself would try for a quarter of an hour, and write a line for each try.
    """
    import grpc

    head = _head()
    if head is None:
        return  # Ray says so at once
    _check_port(
        head,
        f"the head of this machine's Ray cluster does not answer at {head.host}:{head.port}",
        "start it again, or correct RAY_ADDRESS where that is set",
    )
    refused = _ping(head, _ask_head, with_token=True)
    if refused is not None and refused.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # it may be busy
        raise not_connected(address, refused.details() or "")


def _head() -> Address | None:
    """Return where Ray will look for the head of the cluster on this machine, if it knows of one."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        host, _, port = (canonicalize_bootstrap_address("auto") or "").rpartition(":")
        return Address(host, int(port))
    except (OSError, ValueError):  # there is none
        return None


def _check_port(address: Address, failed: str, next_step: str) -> None:
    """Raise ClusterError with this message unless something listens there."""
    try:
        _connect(address).close()
    except OSError as error:
        raise ClusterError(failed, why=error.strerror or str(error), next_step=next_step) from error


def _connect(address: Address) -> socket.socket:
    return socket.create_connection((address.host.strip("[]"), address.port), _PATIENCE)


def _ping(address: Address, ask: Callable[[grpc.Channel], object], *, with_token: bool) -> grpc.Call | None:
    """Ask whether the cluster is there; return the error, if there is one."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS  # as for Ray itself: past an HTTP proxy

    make = init_grpc_channel if with_token else _anonymous
    with make(f"{address.host}:{address.port}", GLOBAL_GRPC_OPTIONS) as channel:
        try:
            ask(channel)
        except grpc.RpcError as error:
            failed: grpc.Call = error
            return failed
    return None


def _ask_server(channel: grpc.Channel) -> object:
    """Ask the server of Ray's clients."""
    from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc

    messages: Any = ray_client_pb2
    ping = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    return ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ping, timeout=_PATIENCE)


def _ask_head(channel: grpc.Channel) -> object:
    """Ask the head's own service."""
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    messages: Any = gcs_service_pb2
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    return stub.GetClusterId(messages.GetClusterIdRequest(), timeout=_PATIENCE)


def _anonymous(target: str, options: Sequence[tuple[str, int]]) -> grpc.Channel:
    """Return a channel that sends no token, whatever is set here."""
    import grpc
    from ray._common.tls_utils import load_certs_from_env

    if "tls" not in protections():
        return grpc.insecure_channel(target, options)
    certificate, key, authority = load_certs_from_env()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.secure_channel(target, credentials, options)


def _check_tls(address: Address, why: str) -> None:
    """Raise ClusterError where one side uses TLS and the other does not, or other certificates."""
    here, there = "tls" in protections(), _speaks_tls(address)
    if there and not here:
        raise ClusterError(
            f"the cluster {address} uses TLS, and this machine does not",
            next_step="set RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY, RAY_TLS_CA_CERT as there",
        )
    if here and not there:
        raise ClusterError(
            f"RAY_USE_TLS is set here, and the cluster {address} does not use TLS",
            next_step="set RAY_USE_TLS=1 on all of its nodes, or unset it here",
        )
    if here:
        raise not_connected(address, why)


def _speaks_tls(address: Address) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(address) as plain, context.wrap_socket(plain):
            return True
    except OSError:  # ssl.SSLError is one
        return False


def not_connected(address: Address, why: str) -> ClusterError:
    """Return the error of a cluster that does not let this machine in."""
    return ClusterError(
        f"cannot connect to {address if address.host else 'the cluster on this machine'}",
        why=why,
        next_step="check the versions of Ray and Python there, and the token: RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token",
    )


def no_token(address: Address) -> ClusterError:
    """Return the error of a cluster without a token."""
    return ClusterError(
        f"the cluster {address} can be reached from other machines and has no token",
        why="everybody who reaches it can run any program on its nodes",
        next_step="start it with RAY_AUTH_MODE=token, and set the same here",
    )
