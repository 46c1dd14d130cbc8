"""The guest's memory, and a queue of requests in it (virtio 1.2, section 2.7, "Split Virtqueues").

All of it is written by the guest, also while it is read here: a number is read once and checked then, and an
address is only used after it was found in the guest's memory.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NEXT, _WRITABLE, _INDIRECT = 1, 2, 4  # flags of a descriptor
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_USED = struct.Struct("<II")  # head, length
_LONGEST = 4096  # descriptors of a request
_LARGEST_QUEUE = 1024

Views = list[memoryview]


class BrokenGuest(Exception):
    """The guest's driver or QEMU does what the specification forbids."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the guest's memory: where the guest has it, where QEMU has it, and its content here."""

    guest: int
    qemu: int
    content: memoryview

    @classmethod
    def mapped(cls, guest: int, size: int, qemu: int, offset: int, descriptor: int) -> Region:
        """Map it from a file. Raises BrokenGuest."""
        try:
            content = memoryview(mmap.mmap(descriptor, offset + size))[offset:]
        except (OSError, ValueError, OverflowError) as error:
            raise BrokenGuest(f"memory that cannot be mapped: {error}") from error
        return cls(guest, qemu, content)


class Memory:
    """The guest's memory."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = regions

    def at(self, address: int, size: int) -> memoryview:
        """Return memory by the guest's address. Raises BrokenGuest."""
        for region in self._regions:
            start = address - region.guest
            if start >= 0 and start + size <= len(region.content):
                return region.content[start : start + size]
        raise BrokenGuest(f"no memory of {size} bytes at {address:#x}")

    def at_qemu(self, address: int, size: int) -> memoryview:
        """Return memory by QEMU's address. Raises BrokenGuest."""
        for region in self._regions:
            start = address - region.qemu
            if start >= 0 and start + size <= len(region.content):
                return region.content[start : start + size]
        raise BrokenGuest(f"no memory of {size} bytes at QEMU's {address:#x}")


@dataclass(frozen=True, slots=True)
class Chain:
    """A request: what the guest wrote, and where the answer is to be written."""

    head: int
    readable: Views
    writable: Views


@dataclass(slots=True)
class Queue:
    """A queue. `kick` and `call` are event descriptors (eventfd(2)): a request is there, an answer is."""

    size: int = 0
    addresses: tuple[int, int, int] | None = None  # QEMU's: descriptors, used, available
    taken: int = 0  # of the requests, modulo 2**16
    kick: int | None = None
    call: int | None = None
    enabled: bool = False

    def requests(self, memory: Memory) -> Iterator[tuple[Chain, _Answers]]:
        """Yield each request that is there, and what takes its answer's length. Raises BrokenGuest."""
        if not self.enabled or self.addresses is None or not 0 < self.size <= _LARGEST_QUEUE:
            return
        table, used, available = self.addresses
        descriptors = memory.at_qemu(table, 16 * self.size)
        ring = memory.at_qemu(available, 4 + 2 * self.size).cast("H")  # flags, index, heads
        answers = _Answers(memory.at_qemu(used, 4 + 8 * self.size), self.size)
        while self.taken != ring[1]:
            head = ring[2 + self.taken % self.size]
            self.taken = (self.taken + 1) & 0xFFFF
            yield _chain(memory, descriptors, head), answers

    def notify(self) -> None:
        """Notify the guest of answers."""
        if self.call is not None:
            os.eventfd_write(self.call, 1)

    def close(self) -> None:
        """Close the event descriptors."""
        for descriptor in (self.kick, self.call):
            if descriptor is not None:
                os.close(descriptor)
        self.kick = self.call = None


class _Answers:
    """The ring of the requests that were answered."""

    def __init__(self, ring: memoryview, size: int) -> None:
        self._ring = ring
        self._words = ring.cast("H")
        self._size = size

    def add(self, chain: Chain, length: int) -> None:
        """Return a request to the guest, with an answer of so many bytes."""
        index = self._words[1]
        _USED.pack_into(self._ring, 4 + 8 * (index % self._size), chain.head, length)
        self._words[1] = (index + 1) & 0xFFFF  # one store: the guest reads it at any moment


def _chain(memory: Memory, table: memoryview, head: int) -> Chain:
    readable: Views = []
    writable: Views = []
    index, indirect = head, False
    for _ in range(_LONGEST):
        if 16 * index >= len(table):
            raise BrokenGuest(f"no descriptor {index}")
        address, length, flags, following = _DESCRIPTOR.unpack_from(table, 16 * index)
        if flags & _INDIRECT:
            if indirect or length % 16:
                raise BrokenGuest("a table of descriptors that cannot be one")
            table, index, indirect = memory.at(address, length), 0, True
            continue
        if length:
            (writable if flags & _WRITABLE else readable).append(memory.at(address, length))
        if not flags & _NEXT:
            return Chain(head, readable, writable)
        index = following
    raise BrokenGuest("a request without an end")


def gather(views: Views, limit: int) -> bytes:
    """Return the first bytes of a request's parts, `limit` at most."""
    pieces = []
    for view in views:
        piece = bytes(view[:limit])
        pieces.append(piece)
        limit -= len(piece)
        if not limit:
            break
    return b"".join(pieces)


def scatter(views: Views, data: bytes) -> int:
    """Write data into the parts of an answer, and return its length. Raises BrokenGuest if it is too long."""
    at = 0
    for view in views:
        piece = data[at : at + len(view)]
        view[: len(piece)] = piece
        at += len(piece)
        if at == len(data):
            return at
    if at < len(data):
        raise BrokenGuest("an answer that has no room")
    return at


def section(views: Views, start: int, length: int) -> Views:
    """Return the parts of `length` bytes from `start` on, or fewer if there are no more."""
    found = []
    for view in views:
        if start >= len(view):
            start -= len(view)
            continue
        part = view[start : start + length]
        start = 0
        length -= len(part)
        found.append(part)
        if not length:
            break
    return found
