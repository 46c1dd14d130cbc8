"""Values of credentials that may change while a bottle runs: the proxy asks for the one in force.

The answers come over a pair of sockets, of which the proxy has one end as its standard input, so that a value
is on no command line, in no file, and at no path that another process could open. A question is a line of
JSON, `{"name", "refused"}`, where `refused` says that a server has refused the last value. The answer is
`{"name", "value"}`, with null if the value is still the last one.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from bot_bottle.host.redact import Renew, Secret

LINE = 1 << 20  # bytes of a question or an answer; a value has 64 KiB, and JSON may write a byte with six


@contextmanager
def served(renewals: Mapping[str, Renew], first: Mapping[str, Secret]) -> Iterator[socket.socket]:
    """Answer a proxy until the block ends; yield its end. `first` are the values that it has already.

    A renewal that is under way is waited for: a token that was refreshed has to be stored.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answering = _Answering(ours, renewals, first)
        thread = threading.Thread(target=answering.serve, daemon=True)
        thread.start()
        try:
            yield theirs
        finally:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            thread.join()


class _Answering:
    def __init__(
        self, channel: socket.socket, renewals: Mapping[str, Renew], first: Mapping[str, Secret]
    ) -> None:
        self._channel = channel
        self._renewals = renewals
        self._last = dict(first)
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Answer until the proxy has ended. A slow answer does not keep others waiting."""
        threads: list[threading.Thread] = []
        with suppress(OSError), self._channel.makefile("rb") as lines:
            while line := lines.readline(LINE):
                question = json.loads(line)
                arguments = (question["name"], question["refused"])
                threads = [each for each in threads if each.is_alive()]
                threads.append(threading.Thread(target=self._answer, args=arguments, daemon=True))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _answer(self, name: str, refused: bool) -> None:
        value = None
        try:
            found = self._renewals[name](refused)
            if found.reveal() != self._last[name].reveal():
                self._last[name] = found
                value = found.reveal()
        finally:
            line = json.dumps({"name": name, "value": value}).encode() + b"\n"
            with self._lock, suppress(OSError):
                self._channel.sendall(line)
