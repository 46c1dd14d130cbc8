"""Validated values of the OCI image specification.

Source: OCI image-spec v1.1 (descriptor.md, config.md, media-types.md), Docker image manifest v2 schema 2.
"""

from __future__ import annotations

import hashlib
import json
import platform as _host
import re
from typing import Any

from msgspec import Struct

from bot_bottle.errors import ImageError

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")

MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


class Digest(Struct, frozen=True, order=True):
    """A content digest, `algorithm:hex` (image-spec descriptor.md, Digests), with sha256 or sha512."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _DIGEST.match(self.text):
            raise ImageError(f"invalid digest: {str(self.text)[:100]!r}")

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `data`."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self.text.partition(":")[0]

    @property
    def hex(self) -> str:
        """The hexadecimal digits after the colon."""
        return self.text.partition(":")[2]

    def __str__(self) -> str:
        return self.text


class Platform(Struct, frozen=True):
    """An operating system and architecture, in the words of Go's GOOS and GOARCH."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse `os/arch[/variant]`, as in docker's --platform. Raises ImageError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.]+", part) for part in parts):
            raise ImageError(f"invalid platform: {text[:100]!r}", next_step="write it as linux/amd64")
        return cls(*parts)

    @classmethod
    def of_this_machine(cls) -> Platform:
        """Return the platform that a microVM on this machine runs."""
        machine = _host.machine().lower()
        return cls("linux", {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class ImageConfig(Struct, frozen=True):
    """What an image's config says of running it (image-spec config.md). Lists are never None."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        """Parse a config blob. Raises ImageError for anything else."""
        document = parse_json(raw, "image config")
        run = document.get("config") or {}
        rootfs = document.get("rootfs") or {}
        if not isinstance(run, dict) or not isinstance(rootfs, dict):
            raise ImageError("the image config is malformed: config and rootfs must be objects")
        diff_ids = rootfs.get("diff_ids") or []
        if not isinstance(diff_ids, list):
            raise ImageError("the image config is malformed: rootfs.diff_ids must be a list")
        return cls(
            platform=Platform(
                _text(document, "os") or "linux", _text(document, "architecture"), _text(document, "variant")
            ),
            diff_ids=tuple(Digest(item) for item in diff_ids),
            entrypoint=_texts(run, "Entrypoint"),
            cmd=_texts(run, "Cmd"),
            env=_texts(run, "Env"),
            workdir=_text(run, "WorkingDir"),
            user=_text(run, "User"),
        )


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object from an untrusted source; `what` names it in the ImageError."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the {what} is not JSON", why=str(error)) from error
    if not isinstance(document, dict):
        raise ImageError(f"the {what} is not a JSON object")
    return document


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ImageError(f"the image config is malformed: {key} must be a string")
    return value


def _texts(document: dict[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImageError(f"the image config is malformed: {key} must be a list of strings")
    return tuple(value)
