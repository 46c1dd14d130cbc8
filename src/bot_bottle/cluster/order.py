"""What a node gets to run: everything about one bottle but its name."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Literal, NewType

from msgspec import Struct

from bot_bottle.errors import ClusterError

if TYPE_CHECKING:  # the head need not load what an order is about
    from bot_bottle.bottle.spec import BottleSpec
    from bot_bottle.cache.key import Key
    from bot_bottle.image.spec import Digest
    from bot_bottle.workspace.bundle import Origin

FileName = Literal["repository", "image", "artifact", "state"]
"""The files that a node may ask for."""

# what the agents of earlier bottles have left, and what that is after this one; in a bottle's state folder
GIVEN_STATE, NEW_STATE = "given.tar", "new.tar"


Packed = NewType("Packed", bytes)
"""An order on its way."""


class Artifact(Struct, frozen=True):
    """The artifact that a microVM boots: its key, and the SHA-256 of the file."""

    key: Key
    digest: Digest
    image_id: str


class Values(Struct, frozen=True):
    """What is sealed on its way: the values of variables, and those of secrets that are sent along."""

    env: dict[str, str]
    secrets: dict[str, str]


class Order(Struct, frozen=True):
    """One bottle of a fan, whose number in hexadecimal digits is `fan`.

    The values of variables are not in its spec, which has only the references of secrets. A container's image
    is `image_id`, or `image` where an engine had to load it. `has_state`: the caller has state of the
    agent, which the bottle gets.
    """

    fan: str
    version: str
    spec: BottleSpec
    origin: Origin
    image_id: str = ""
    artifact: Artifact | None = None
    has_state: bool = False

    def packed(self) -> Packed:
        """Return it for its way to the nodes."""
        return Packed(pickle.dumps(self))

    @property
    def image(self) -> str:
        """The name of the image on the nodes that do not have it already."""
        return f"localhost/bot-bottle-fan:{self.fan}"


def unpacked(order: Packed) -> Order:
    """Return an order that has arrived. Raises ClusterError for what another version of bottle has sent."""
    try:
        given: Order = pickle.loads(order)  # noqa: S301 - who sends it could run any program here
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise ClusterError("the order is of another version of bottle", why=str(error)) from error
    return given
