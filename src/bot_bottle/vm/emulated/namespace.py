"""A network namespace for QEMU, in which nothing but sockets of ours is reached.

The namespace has no device but loopback. On it listen sockets that are made there and passed to the bottle's
proxy (unix(7), SCM_RIGHTS): a socket belongs to the network namespace in which it was made. What QEMU
connects to for the emulated host is in that namespace too, so that neither a guest that takes over the
emulated host nor one that takes over QEMU finds another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bot_bottle.host.bare_helper import bare_helper

INTERCEPTOR_PORT, NAME_PORT = 3129, 53

# in the order in which they are passed on: for connections that smolvm hands over, for questions for names
_MADE = (("SOCK_STREAM", INTERCEPTOR_PORT), ("SOCK_DGRAM", NAME_PORT), ("SOCK_STREAM", NAME_PORT))


class Namespace(Struct, frozen=True):
    """What leads out of the namespace: the Unix socket that gets its sockets.

    And what leads into it: the socket of `network.port_forwarder`, and the ports that it asks for.
    """

    sockets: Path
    connect: Path | None = None
    ports: Sequence[int] = ()

    def prefix(self, first: int) -> tuple[str, ...]:
        """Return what is put before QEMU's command line; it listens from the port `first` on."""
        connect = None
        if self.connect is not None:
            inner = {str(asked): number for number, asked in enumerate(self.ports, first)}
            connect = {"path": str(self.connect.absolute()), "ports": inner}
        asked = {"sockets": {"path": str(self.sockets.absolute()), "made": _MADE}, "connect": connect}
        return tuple(bare_helper("bot_bottle.vm.emulated.namespace_helper", asked))
