"""The content of a registry: which repository has which blobs, manifests and tags. Bytes are in the store.

It is in memory and bounded, as the registry ends with the command that needed it. `Service` is shared by the
handlers of requests.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web
from aiohttp.web_request import BaseRequest
from msgspec import Struct, field

from bot_bottle.image.spec import Digest
from bot_bottle.registry.errors import Answer, Refusal
from bot_bottle.registry.store import BlobStore

T = TypeVar("T")

_PIECE = 1 << 20  # bytes written to the disk at once
_REPOSITORIES = 10_000
_ENTRIES = 100_000  # blobs, manifests or tags in one repository


class Manifest(Struct, frozen=True):
    """A stored manifest, byte for byte as it was pushed. `subject` is the manifest that it refers to."""

    digest: Digest
    media_type: str
    size: int
    subject: Digest | None = None


class Repository(Struct):
    """One repository. A manifest's bytes are in the store; its digest is not a blob of the repository."""

    name: str
    blobs: set[Digest] = field(default_factory=set)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    _referrers: dict[Digest, set[Digest]] = field(default_factory=dict)

    def find(self, reference: str | Digest) -> Manifest | None:
        """Return a manifest by tag or digest, or None."""
        digest = self.tags.get(reference) if isinstance(reference, str) else reference
        return self.manifests.get(digest) if digest is not None else None

    def add_blob(self, digest: Digest) -> None:
        """Add a blob of the store. Raises Refusal."""
        _room(len(self.blobs), "blobs")
        self.blobs.add(digest)

    def add(self, manifest: Manifest, tags: tuple[str, ...] = ()) -> None:
        """Add a manifest with tags. Raises Refusal."""
        _room(len(self.manifests), "manifests")
        _room(len(self.tags) + len(tags), "tags")
        self.manifests[manifest.digest] = manifest
        self.tags.update(dict.fromkeys(tags, manifest.digest))
        if manifest.subject is not None:
            self._referrers.setdefault(manifest.subject, set()).add(manifest.digest)

    def remove(self, manifest: Manifest) -> None:
        """Remove a manifest and its tags."""
        del self.manifests[manifest.digest]
        self.tags = {tag: digest for tag, digest in self.tags.items() if digest != manifest.digest}
        if manifest.subject is not None:
            referrers = self._referrers[manifest.subject]
            referrers.discard(manifest.digest)
            if not referrers:
                del self._referrers[manifest.subject]

    def sorted_tags(self, after: str | None = None) -> list[str]:
        """Return the tags in the order of their bytes, those after `after`."""
        tags = sorted(self.tags)
        return tags if after is None else tags[bisect.bisect_right(tags, after) :]

    def referrers(self, subject: Digest, after: str | None = None) -> Iterator[Manifest]:
        """Yield the manifests with this subject, in the order of their digests."""
        for digest in sorted(self._referrers.get(subject, ())):
            if after is None or digest.text > after:
                yield self.manifests[digest]


class Repositories:
    """All repositories of one registry, over one store."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._by_name: dict[str, Repository] = {}

    def find(self, name: str) -> Repository | None:
        """Return a repository, or None if nothing was pushed to it."""
        return self._by_name.get(name)

    def make(self, name: str) -> Repository:
        """Return a repository; create it if needed. Raises Refusal."""
        if name not in self._by_name:
            if len(self._by_name) >= _REPOSITORIES:
                raise Refusal(Answer.TOO_MANY, f"the registry has {_REPOSITORIES} repositories at most")
            self._by_name[name] = Repository(name)
        return self._by_name[name]

    def has_blob(self, digest: Digest, name: str | None) -> bool:
        """Return whether a repository, or with None any repository, has a blob."""
        if name is None:
            return any(digest in each.blobs for each in self._by_name.values())
        repository = self.find(name)
        return repository is not None and digest in repository.blobs

    def release(self, digest: Digest) -> None:
        """Remove content from the store that is in no repository any more."""
        for each in self._by_name.values():
            if digest in each.blobs or digest in each.manifests:
                return
        self.store.remove(digest)


def _room(count: int, what: str) -> None:
    if count >= _ENTRIES:
        raise Refusal(Answer.TOO_MANY, f"a repository has {_ENTRIES} {what} at most")


class Limits(Struct, frozen=True):
    """Limits for one client. Sizes are in bytes, times in seconds."""

    manifest: int = 4 << 20  # the minimum in the specification
    blob: int = 64 << 30
    connections: int = 256
    idle: float = 60.0  # a connection without a request, or a body without progress


class Service(Struct, frozen=True):
    """One registry: its content, the prefix of its repositories, and whether it accepts pushes."""

    repositories: Repositories
    prefix: str
    writable: bool = False
    limits: Limits = Limits()
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "registry-disk"))

    async def on_disk(self, work: Callable[..., T], *args: object) -> T:
        """Call a function that waits for the disk or hashes much, outside the event loop."""
        future = asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])  # what it writes to must not be closed before it returns
            raise

    async def body(self, request: BaseRequest, limit: int) -> bytes:
        """Return a small body. Raises Refusal."""
        data = bytearray()
        async for piece in self.pieces(request, limit):
            data += piece
        return bytes(data)

    async def pieces(self, request: BaseRequest, limit: int) -> AsyncIterator[bytes | bytearray]:
        """Yield a body in pieces, as they arrive. Raises Refusal."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refusal(Answer.ENCODING_UNSUPPORTED, "a body must not have a content encoding")
        if (request.content_length or 0) > limit:
            raise Refusal(Answer.TOO_LARGE, f"the limit is {limit} bytes")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        count = 0
        gathered = bytearray()
        while piece := await self._some(request):
            count += len(piece)
            if count > limit:
                raise Refusal(Answer.TOO_LARGE, f"the limit is {limit} bytes")
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
            raise Refusal(Answer.STALLED, f"nothing arrived for {self.limits.idle:g} s") from None
        except web.RequestPayloadError as error:
            raise Refusal(
                Answer.SIZE_INVALID, "the body is not what its headers say", detail=str(error)[:200]
            ) from error
