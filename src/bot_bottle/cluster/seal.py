"""Values on their way to a node, which nobody on the way reads: not the object store, not a log.

A sealed message is for the owner of a key: an ephemeral key agreement (X25519, RFC 7748), HKDF-SHA256 (RFC
5869) and ChaCha20-Poly1305 (RFC 8439). The caller seals for the fan, and the fan for each node that asks.
That a key is the fan's is not proven here: all who can answer in its place can run programs on the cluster.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from bot_bottle.cluster.order import Values
from bot_bottle.errors import ClusterError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_KEY = 32  # bytes of a key
_NONCE = bytes(12)  # each message has a key of its own
_CONTEXT = b"bot-bottle fan"


class Box:
    """A key pair, of which only the public half leaves the process."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._private = X25519PrivateKey.generate()
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def open(self, sealed: bytes) -> Values:
        """Return the values that were sealed for this key. Raises ClusterError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        sender = sealed[:_KEY]
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(sender))
            plain = _cipher(shared, sender + self.public).decrypt(_NONCE, sealed[_KEY:], None)
        except (ValueError, InvalidTag) as error:
            raise ClusterError("what was sealed for this node cannot be opened") from error
        return Values(**json.loads(plain))


def seal(values: Values, public: bytes) -> bytes:
    """Return values so that only the owner of a key reads them."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    own = Box()
    shared = own._private.exchange(X25519PublicKey.from_public_bytes(public))
    plain = json.dumps(asdict(values)).encode()
    return own.public + _cipher(shared, own.public + public).encrypt(_NONCE, plain, None)


def _cipher(shared: bytes, keys: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return ChaCha20Poly1305(HKDF(SHA256(), _KEY, None, _CONTEXT + keys).derive(shared))
