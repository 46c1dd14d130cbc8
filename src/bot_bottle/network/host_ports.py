"""Ports of this machine's loopback that a bottle may reach, as `host.bottle`.

In the bottle's network namespace a socket listens on each, whose connections the proxy accepts (see
`proxy.main`) and leads to the port of this machine. Nothing else of the loopback is reachable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bot_bottle.errors import SpecError
from bot_bottle.network.proxy_address import PORT

HOST = "host.bottle"  # names below `bottle` exist in a bottle only
MOST = 64

_LOOPBACK = "127.0.0.1"


def check_host_ports(ports: Iterable[int]) -> tuple[int, ...]:
    """Return ports without repetition. Raises SpecError for invalid ones, and for too many."""
    found = tuple(dict.fromkeys(ports))
    for port in found:
        if type(port) is not int or not 0 < port < 65536:  # JSON's true is an int too
            raise SpecError(f"invalid port of this machine: {str(port)[:20]}", next_step="write 1 to 65535")
        if port == PORT:
            raise SpecError(
                f"port {port} of this machine cannot be allowed",
                why="a bottle's own proxy has this port in it",
                next_step="let the service listen on another port",
            )
    if len(found) > MOST:
        raise SpecError(f"{len(found)} ports of this machine are allowed; {MOST} is the most")
    return found


def host_services(ports: Iterable[int]) -> Mapping[str, str]:
    """Return the services of a proxy for ports of this machine, and the sockets that they lead to."""
    return {f"{HOST}:{port}": f"{_LOOPBACK}:{port}" for port in ports}
