"""Search of images and artifacts for secrets: one file at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from bot_bottle.host.text import printable
from bot_bottle.image.archive import Image
from bot_bottle.image.layers import CHUNK
from bot_bottle.image.spec import parse_json
from bot_bottle.scan import credential_files
from bot_bottle.scan.credential_files import Finding
from bot_bottle.scan.detectors import in_text, is_settings, rules
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import ForwardStream, Headers

LARGEST = 64 << 20  # bytes of a file that are searched
_PART = 1 << 20  # bytes of it that are searched together
_LARGEST_SETTINGS = 256 << 10  # bytes of a configuration file
_SAID = 20  # findings reported for one file
_BINARY = 8192  # bytes at the beginning, of which none is NUL in a text


def scan_image(image: Image, on_bytes: Callable[[int], None]) -> Iterator[Finding]:
    """Search every layer, also for files that later layers delete, and the config. Raises ImageError.

    `on_bytes` is called with the sizes of the layers as they are stored.
    """
    with rules():
        yield from credential_files.in_variables(image.config.env, "config")
        yield from _in_lines(image.config.env, "config", "ENV")
        yield from _history(image.config_bytes)
        for layer in image.layers:
            with layer.open() as stream:
                yield from _in_tar(stream, str(layer.diff_id), str(layer))
                while stream.some(CHUNK):  # data after the tar's end is part of the digest
                    pass
            on_bytes(layer.size)


def scan_artifact(path: Path, on_bytes: Callable[[int], None]) -> Iterator[Finding]:
    """Search an artifact's root filesystem and manifest. Raises ArtifactError."""
    found: list[Finding] = []

    def read_layer(name: str, pieces: Iterator[bytes]) -> None:
        found.extend(_in_tar(PieceStream(pieces), "root", name))

    with rules():
        manifest = artifact_format.verify(path, on_bytes, read_layer).manifest
        yield from credential_files.in_variables(manifest.env, "manifest")
        yield from _in_lines(manifest.env, "manifest", "ENV")
        yield from _in_lines((" ".join((*manifest.entrypoint, *manifest.cmd)),), "manifest", "command")
    yield from found


def _history(config: bytes) -> Iterator[Finding]:
    """Search the history of an image: commands, and build arguments."""
    history = parse_json(config, "image config").get("history")
    for number, step in enumerate(history if isinstance(history, list) else [], 1):
        command = step.get("created_by") if isinstance(step, dict) else None
        if isinstance(command, str):
            if credential_files.in_command(command):
                yield Finding("history", f"step {number}", 0, "a variable named as a secret")
            yield from _in_lines((command,), "history", f"step {number}")


def _in_lines(lines: tuple[str, ...], layer: str, what: str) -> Iterator[Finding]:
    for line in lines:
        name = f"{what} {line.partition('=')[0]}" if what == "ENV" else what
        kinds = {kind for _, kind in in_text("", line, settings=False)}
        yield from (Finding(layer, name, 0, kind) for kind in sorted(kinds))


def _in_tar(stream: ForwardStream, layer: str, what: str) -> Iterator[Finding]:
    headers = Headers(stream, what)
    for member in headers:
        if member.isreg() and member.size:
            path = member.name.removeprefix("./").lstrip("/")
            for line, kind in islice(scan_file(path, member.size, headers.data()), _SAID):
                yield Finding(layer, printable(path), line, kind)


def scan_file(path: str, size: int, pieces: Iterator[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and kind of each line of a file that looks like a secret. Needs `rules`.

    `path` has no first slash. The pieces may not all be read.
    """
    settings = is_settings(path) and size <= _LARGEST_SETTINGS
    for first, content in _parts(pieces):
        if size <= credential_files.LARGEST:
            yield from credential_files.in_file(path, content)
        for line, kind in in_text(path, content.decode("utf-8", "replace"), settings=settings):
            yield first + line, kind


def _parts(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield a text in parts of complete lines, if these are short, each with the count of lines before."""
    content, lines, seen = b"", 0, 0
    for piece in pieces:
        if not seen and b"\0" in piece[:_BINARY]:
            return
        content, seen = content + piece, seen + len(piece)
        if len(content) >= _PART:
            cut = content.rfind(b"\n") + 1 or len(content)
            yield lines, content[:cut]
            lines, content = lines + content.count(b"\n", 0, cut), content[cut:]
        if seen >= LARGEST:
            return
    yield lines, content
