"""Values that may change while a bottle runs: a file's is read again when the file has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from bot_bottle.errors import SecretError
from bot_bottle.host.redact import Renew, Secret
from bot_bottle.secrets.reference import Reference, expanded, resolve

_Stamp = tuple[int, int, int, int]


def renewal(reference: Reference, value: Secret, warn: Callable[[str], None]) -> Renew | None:
    """Return what renews the value of a reference that was read before; None if it cannot change."""
    return _File(reference, value, warn) if reference.kind == "file" else None


class _File:
    """Reads a file again when it has changed. The last value stays in force while it cannot be used."""

    def __init__(self, reference: Reference, value: Secret, warn: Callable[[str], None]) -> None:
        self._reference = reference
        self._value = value
        self._warn = warn
        self._path = expanded(reference.place).absolute()
        self._stamp: _Stamp | None = None  # it may have changed since it was read
        self._lock = threading.Lock()

    def __call__(self, _refused: bool) -> Secret:
        with self._lock:
            stamp = self._status()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = resolve([self._reference])[self._reference.name]
                except SecretError as error:
                    self._warn(f"{error.message}; its last value stays in force")
            return self._value

    def _status(self) -> _Stamp | None:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0, 0)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
