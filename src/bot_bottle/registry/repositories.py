"""What a registry has beside the bytes: which repository has which blobs, manifests and tags.

It is in memory and bounded: the registry ends with the command that needed it. `Service` is what the handlers
of requests share.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.image.spec import Digest
from bot_bottle.registry.errors import Answer, Refusal
from bot_bottle.registry.store import BlobStore

T = TypeVar("T")

_PIECE = 1 << 20  # bytes handed to the disk at once
_REPOSITORIES = 10_000
_ENTRIES = 100_000  # blobs, manifests or tags in one repository


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stored manifest, byte for byte as it came. `subject` is the manifest that it refers to."""

    digest: Digest
    media_type: str
    size: int
    subject: Digest | None = None


@dataclass
class Repository:
    """One repository. A manifest's bytes are in the store; its digest is not a blob of the repository."""

    name: str
    blobs: set[Digest] = field(default_factory=set)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    _referrers: dict[Digest, set[Digest]] = field(default_factory=dict)

    def find(self, reference: str | Digest) -> Manifest | None:
        """Give a manifest by tag or digest."""
        digest = self.tags.get(reference) if isinstance(reference, str) else reference
        return self.manifests.get(digest) if digest is not None else None

    def add_blob(self, digest: Digest) -> None:
        """Have a blob of the store. Raises Refusal."""
        _room(len(self.blobs), "blobs")
        self.blobs.add(digest)

    def add(self, manifest: Manifest, tags: tuple[str, ...] = ()) -> None:
        """Have a manifest, and give it tags. Raises Refusal."""
        _room(len(self.manifests), "manifests")
        _room(len(self.tags) + len(tags), "tags")
        self.manifests[manifest.digest] = manifest
        self.tags.update(dict.fromkeys(tags, manifest.digest))
        if manifest.subject is not None:
            self._referrers.setdefault(manifest.subject, set()).add(manifest.digest)

    def remove(self, manifest: Manifest) -> None:
        """Forget a manifest and its tags."""
        del self.manifests[manifest.digest]
        self.tags = {tag: digest for tag, digest in self.tags.items() if digest != manifest.digest}
        if manifest.subject is not None:
            referrers = self._referrers[manifest.subject]
            referrers.discard(manifest.digest)
            if not referrers:
                del self._referrers[manifest.subject]

    def sorted_tags(self, after: str | None = None) -> list[str]:
        """Give the tags in the order of their bytes, from the one after `after` on."""
        tags = sorted(self.tags)
        return tags if after is None else tags[bisect.bisect_right(tags, after) :]

    def referrers(self, subject: Digest, after: str | None = None) -> Iterator[Manifest]:
        """Give the manifests that name `subject`, in the order of their digests."""
        for digest in sorted(self._referrers.get(subject, ())):
            if after is None or digest.text > after:
                yield self.manifests[digest]


class Repositories:
    """All repositories of one registry, over one store."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._by_name: dict[str, Repository] = {}

    def find(self, name: str) -> Repository | None:
        """Give a repository that something was put into."""
        return self._by_name.get(name)

    def make(self, name: str) -> Repository:
        """Give a repository, new if need be. Raises Refusal."""
        if name not in self._by_name:
            if len(self._by_name) >= _REPOSITORIES:
                raise Refusal(Answer.TOO_MANY, f"the registry keeps {_REPOSITORIES} repositories at most")
            self._by_name[name] = Repository(name)
        return self._by_name[name]

    def has_blob(self, digest: Digest, name: str | None) -> bool:
        """Whether a repository, or with None any of them, has a blob."""
        if name is None:
            return any(digest in each.blobs for each in self._by_name.values())
        repository = self.find(name)
        return repository is not None and digest in repository.blobs

    def release(self, digest: Digest) -> None:
        """Let the store forget content that no repository has any more."""
        for each in self._by_name.values():
            if digest in each.blobs or digest in each.manifests:
                return
        self.store.remove(digest)


def _room(count: int, what: str) -> None:
    if count >= _ENTRIES:
        raise Refusal(Answer.TOO_MANY, f"a repository keeps {_ENTRIES} {what} at most")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. Sizes are in bytes, times in seconds."""

    manifest: int = 4 << 20  # the specification asks for at least that much
    blob: int = 64 << 30
    connections: int = 256
    idle: float = 60.0  # a connection without a request, and a body that does not move


@dataclass(frozen=True, slots=True)
class Service:
    """One registry: its content, the prefix of its repositories, and whether it takes pushes."""

    repositories: Repositories
    prefix: str
    writable: bool = False
    limits: Limits = Limits()
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "registry-disk"))

    async def on_disk(self, work: Callable[..., T], *args: object) -> T:
        """Do something that waits for the disk or hashes much, beside the event loop."""
        future = asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])  # what it writes to must not be closed under it
            raise

    async def body(self, request: BaseRequest, limit: int) -> bytes:
        """Read a small body whole. Raises Refusal."""
        data = bytearray()
        async for piece in self.pieces(request, limit):
            data += piece
        return bytes(data)

    async def pieces(self, request: BaseRequest, limit: int) -> AsyncIterator[bytes | bytearray]:
        """Give a body in pieces, as they come. Raises Refusal."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refusal(Answer.ENCODING_UNSUPPORTED, "a body must not have a content encoding")
        if (request.content_length or 0) > limit:
            raise Refusal(Answer.TOO_LARGE, f"{limit} bytes are the most that is taken here")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        count = 0
        gathered = bytearray()
        while piece := await self._some(request):
            count += len(piece)
            if count > limit:
                raise Refusal(Answer.TOO_LARGE, f"{limit} bytes are the most that is taken here")
            gathered += piece
            if len(gathered) >= _PIECE:
                yield gathered
                gathered = bytearray()
        if gathered:
            yield gathered

    async def _some(self, request: BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(self.limits.idle):
                return await request.content.readany()
        except TimeoutError:
            raise Refusal(Answer.STALLED, f"nothing came for {self.limits.idle:g} s") from None
        except web.RequestPayloadError as error:
            raise Refusal(
                Answer.SIZE_INVALID, "the body is not what its headers say", detail=str(error)[:200]
            ) from error
