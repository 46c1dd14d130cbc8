"""QEMU's requests to a device that is another process (QEMU's manual, "Vhost-user Protocol").

QEMU gives the guest's memory and the queues in it as open files. Only what it sends to a file system of one
kind of queue is known here; the rest is refused by ending.
"""

from __future__ import annotations

import array  # noqa: F401 - recv_fds loads it, when there are no files of Python's any more
import os
import select
import socket
import struct
from collections.abc import Callable

from bot_bottle.vm.direct.virtiofs.virtqueue import BrokenGuest, Chain, Memory, Queue, Region

_QUEUES = 2  # for what is not answered, and for requests (virtio 1.2, section 5.11.2)

# features: VIRTIO_RING_F_INDIRECT_DESC, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1
_FEATURES = 1 << 28 | 1 << 30 | 1 << 32
_PROTOCOL_FEATURES = 1 << 0 | 1 << 3  # MQ, REPLY_ACK

_HEADER = struct.Struct("<III")  # request, flags, size
_REPLY, _NEED_REPLY = 0x5, 0x8  # version 1 and the flag of a reply
_LARGEST = 4096  # bytes of a request
_MOST_FILES = 8
_MOST_REGIONS = 8
_NO_FILE = 0x100

Handler = Callable[[Chain], int]
"""Answers a request of the guest, and returns the length of the answer."""


class Device:
    """The device of one QEMU."""

    def __init__(self, connection: socket.socket, handler: Handler) -> None:
        self._connection = connection
        self._handler = handler
        self._memory = Memory(())
        self._queues = [Queue() for _ in range(_QUEUES)]
        self._poll = select.poll()
        self._kicks: dict[int, Queue] = {}

    def serve(self) -> None:
        """Serve until QEMU ends. Raises BrokenGuest."""
        self._poll.register(self._connection, select.POLLIN)
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._connection.fileno():
                    if not self._take():
                        return
                elif (queue := self._kicks.get(descriptor)) is not None:
                    os.eventfd_read(descriptor)
                    self._work(queue)

    def _work(self, queue: Queue) -> None:
        for chain, answers in queue.requests(self._memory):
            answers.add(chain, self._handler(chain))
            queue.notify()

    def _take(self) -> bool:
        """Take a request of QEMU; return False when QEMU has ended."""
        head, files = self._receive()
        if not head:
            return False
        try:
            request, flags, size = _HEADER.unpack(head)
            if size > _LARGEST:
                raise BrokenGuest(f"a request of {size} bytes")
            body = self._connection.recv(size, socket.MSG_WAITALL) if size else b""
            action = _ACTIONS.get(request)
            if action is None or len(body) != size:
                raise BrokenGuest(f"an unknown request {request}")
            reply = action(self, body, files)
        except (struct.error, IndexError) as error:
            raise BrokenGuest(f"a request that is too short: {error}") from error
        finally:
            for each in files:
                os.close(each)
        if reply is None and flags & _NEED_REPLY:
            reply = bytes(8)
        if reply is not None:
            self._connection.sendall(_HEADER.pack(request, _REPLY, len(reply)) + reply)
        return True

    def _receive(self) -> tuple[bytes, list[int]]:
        head, files, _, _ = socket.recv_fds(self._connection, _HEADER.size, _MOST_FILES)
        if head and len(head) < _HEADER.size:
            head += self._connection.recv(_HEADER.size - len(head), socket.MSG_WAITALL)
        return head, files

    def _features(self, body: bytes, files: list[int]) -> bytes:  # noqa: ARG002 - as all actions
        return struct.pack("<Q", _FEATURES)

    def _protocol_features(self, body: bytes, files: list[int]) -> bytes:  # noqa: ARG002
        return struct.pack("<Q", _PROTOCOL_FEATURES)

    def _count(self, body: bytes, files: list[int]) -> bytes:  # noqa: ARG002
        return struct.pack("<Q", _QUEUES)

    def _nothing(self, body: bytes, files: list[int]) -> None:
        """Do nothing: features are used as the guest uses them, there is one owner."""

    def _set_memory(self, body: bytes, files: list[int]) -> None:
        [count] = struct.unpack_from("<I", body)
        if count > _MOST_REGIONS or count > len(files):
            raise BrokenGuest(f"{count} regions of memory")
        regions = []
        for index in range(count):
            guest, size, qemu, offset = struct.unpack_from("<4Q", body, 8 + 32 * index)
            regions.append(Region.mapped(guest, size, qemu, offset, files[index]))
        self._memory = Memory(regions)

    def _set_size(self, body: bytes, files: list[int]) -> None:  # noqa: ARG002
        index, number = struct.unpack_from("<II", body)
        self._queues[index].size = number

    def _set_addresses(self, body: bytes, files: list[int]) -> None:  # noqa: ARG002
        index, _, descriptors, used, available = struct.unpack_from("<II3Q", body)
        self._queues[index].addresses = (descriptors, used, available)

    def _set_base(self, body: bytes, files: list[int]) -> None:  # noqa: ARG002
        index, number = struct.unpack_from("<II", body)
        self._queues[index].taken = number & 0xFFFF

    def _stop(self, body: bytes, files: list[int]) -> bytes:  # noqa: ARG002
        index, _ = struct.unpack_from("<II", body)
        queue = self._queues[index]
        self._forget(queue)
        queue.close()
        return struct.pack("<II", index, queue.taken)

    def _set_kick(self, body: bytes, files: list[int]) -> None:
        queue, descriptor = self._file_of(body, files)
        self._forget(queue)
        if queue.kick is not None:
            os.close(queue.kick)
        queue.kick = descriptor
        queue.enabled = descriptor is not None
        if descriptor is not None:
            self._kicks[descriptor] = queue
            self._poll.register(descriptor, select.POLLIN)
            self._work(queue)  # what came before

    def _set_call(self, body: bytes, files: list[int]) -> None:
        queue, descriptor = self._file_of(body, files)
        if queue.call is not None:
            os.close(queue.call)
        queue.call = descriptor
        queue.notify()

    def _enable(self, body: bytes, files: list[int]) -> None:  # noqa: ARG002
        index, number = struct.unpack_from("<II", body)
        queue = self._queues[index]
        queue.enabled = bool(number)
        if queue.kick is not None:
            self._work(queue)

    def _file_of(self, body: bytes, files: list[int]) -> tuple[Queue, int | None]:
        [number] = struct.unpack_from("<Q", body)
        queue = self._queues[number & 0xFF]
        if number & _NO_FILE or not files:
            return queue, None
        return queue, os.dup(files[0])

    def _forget(self, queue: Queue) -> None:
        if queue.kick is not None:
            self._kicks.pop(queue.kick, None)
            self._poll.unregister(queue.kick)


_ACTIONS: dict[int, Callable[[Device, bytes, list[int]], bytes | None]] = {
    1: Device._features,
    2: Device._nothing,  # SET_FEATURES
    3: Device._nothing,  # SET_OWNER
    5: Device._set_memory,
    8: Device._set_size,
    9: Device._set_addresses,
    10: Device._set_base,
    11: Device._stop,  # GET_VRING_BASE
    12: Device._set_kick,
    13: Device._set_call,
    14: Device._nothing,  # SET_VRING_ERR
    15: Device._protocol_features,
    16: Device._nothing,  # SET_PROTOCOL_FEATURES
    17: Device._count,  # GET_QUEUE_NUM
    18: Device._enable,
}
