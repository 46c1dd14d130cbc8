"""The proxy's end of questions about connections that it would refuse (see `questions`)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import get_args

from bot_bottle.host.unix_sockets import short_path
from bot_bottle.network.questions import LINE, MOST, Answer

SECONDS = 60.0  # for an answer

_REMEMBERED = 1000  # hosts that were answered with `no`; after so many, nothing is asked any more


class Questions:
    """The proxy's end. The same host and port are only asked about once at a time, and not after a `no`.

    `path` is the socket of the answering process; without one the answer is always `no`.
    """

    def __init__(self, path: Path | None, seconds: float = SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._waiting: dict[tuple[str, int], asyncio.Task[Answer]] = {}
        self._denied: set[tuple[str, int]] = set()

    async def ask(self, host: str, port: int) -> Answer:
        """Return the user's answer; it is `no` if there is none in time, or nobody to ask."""
        place = (host, port)
        if self._path is None or place in self._denied or len(self._denied) >= _REMEMBERED:
            return "no"
        if (waiting := self._waiting.get(place)) is None:
            if len(self._waiting) >= MOST:
                return "no"
            waiting = self._waiting[place] = asyncio.create_task(self._ask(self._path, host, port))
            waiting.add_done_callback(lambda _: self._waiting.pop(place, None))
        return await asyncio.shield(waiting)  # others may wait for it too

    async def _ask(self, path: Path, host: str, port: int) -> Answer:
        writer = None
        try:
            async with asyncio.timeout(self._seconds):
                with short_path(path.parent) as folder:
                    reader, writer = await asyncio.open_unix_connection(f"{folder}/{path.name}", limit=LINE)
                writer.write(json.dumps({"host": host, "port": port}).encode() + b"\n")
                answer = _answer(await reader.readline())
        except (OSError, ValueError, RecursionError):  # a TimeoutError is an OSError
            return "no"
        finally:
            if writer is not None:
                writer.close()
        if answer == "no":
            self._denied.add((host, port))
        return answer or "no"


def _answer(line: bytes) -> Answer | None:
    """Return the answer in a line; None if it has none. Raises ValueError."""
    document = json.loads(line)
    answer = document.get("answer") if isinstance(document, dict) else None
    return answer if answer in get_args(Answer) else None
