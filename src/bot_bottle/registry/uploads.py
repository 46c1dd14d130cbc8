"""Uploads: monolithic, in chunks, streamed, resumed, or mounted from another repository.

Source: OCI distribution-spec v1.1, "Pushing blobs", "Cancel a blob upload", "Mounting a blob".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.image.spec import Digest
from bot_bottle.registry.errors import Answer, Refusal
from bot_bottle.registry.repositories import Service
from bot_bottle.registry.routes import Route, as_digest
from bot_bottle.registry.store import DigestMismatch, TooManyUploads, Upload

_CHUNK_RANGE = re.compile(r"(\d{1,19})-(\d{1,19})\Z", re.ASCII)


async def start(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """Handle POST: mount a blob, store a complete one, or start an upload."""
    query = request.query
    if "mount" in query:
        digest = as_digest(query["mount"])
        if service.repositories.has_blob(digest, query.get("from") or None):
            service.repositories.make(route.name).add_blob(digest)
            return _created(route, digest)
        return _accepted(route, _begin(service, route, None))
    if "digest" in query:
        digest = as_digest(query["digest"])
        with _begin(service, route, digest.algorithm) as upload, _writing(upload):
            await _append(service, request, upload)
            return await _finish(service, route, upload, digest)
    algorithm = query.get("digest-algorithm", "sha256")
    if algorithm not in ("sha256", "sha512"):
        raise Refusal(
            Answer.DIGEST_INVALID, "not a supported algorithm (sha256, sha512)", detail=algorithm[:200]
        )
    return _accepted(route, _begin(service, route, algorithm))


async def status(service: Service, _request: BaseRequest, route: Route) -> web.StreamResponse:
    """Handle GET: return how much of an upload has arrived."""
    return web.Response(status=204, headers=_progress(route, _find(service, route)))


async def patch(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """Handle PATCH: append a chunk, or a stream of unknown length."""
    upload = _find(service, route)
    with _writing(upload):
        await _chunk(service, request, route, upload)
    return _accepted(route, upload)


async def put(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """Handle PUT: append the last chunk, the complete blob, or nothing; then commit under the digest."""
    upload = _find(service, route)
    digest = as_digest(request.query.get("digest", ""))
    with _writing(upload):
        if upload.size == 0:
            upload.algorithm = digest.algorithm
        await _chunk(service, request, route, upload)
        return await _finish(service, route, upload, digest)


async def cancel(service: Service, _request: BaseRequest, route: Route) -> web.StreamResponse:
    """Handle DELETE: cancel the upload."""
    upload = _find(service, route)
    with _writing(upload):
        upload.cancel()
    return web.Response(status=204)


def _begin(service: Service, route: Route, algorithm: str | None) -> Upload:
    try:
        return service.repositories.store.upload(algorithm, owner=route.name)
    except TooManyUploads as error:
        raise Refusal(Answer.TOO_MANY, "too many uploads are open", detail=str(error)) from error


def _find(service: Service, route: Route) -> Upload:
    upload = service.repositories.store.find_upload(route.reference)
    if upload is None or upload.owner != route.name:
        raise Refusal(Answer.BLOB_UPLOAD_UNKNOWN, "blob upload unknown to registry")
    return upload


@contextmanager
def _writing(upload: Upload) -> Iterator[None]:
    if upload.busy:
        raise Refusal(Answer.BLOB_UPLOAD_BUSY, "another request is writing to this upload")
    upload.busy = True
    try:
        yield
    finally:
        upload.busy = False


async def _chunk(service: Service, request: BaseRequest, route: Route, upload: Upload) -> None:
    """Append a body at the position of its Content-Range."""
    said = request.headers.get("Content-Range")
    if said is None:
        await _append(service, request, upload)
        return
    found = _CHUNK_RANGE.match(said)
    first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    if first != upload.size or last < first:
        raise Refusal(
            Answer.RANGE_INVALID,
            "the chunk does not start where the upload ends",
            headers=_progress(route, upload),
        )
    count = last - first + 1
    if request.content_length not in (None, count):
        raise Refusal(
            Answer.SIZE_INVALID, f"Content-Range says {count} bytes, Content-Length {request.content_length}"
        )
    await _append(service, request, upload, count)
    if upload.size != last + 1:
        raise Refusal(Answer.SIZE_INVALID, f"Content-Range says {count} bytes, not {upload.size - first}")


async def _append(service: Service, request: BaseRequest, upload: Upload, limit: int | None = None) -> None:
    room = service.limits.blob - upload.size
    async for piece in service.pieces(request, room if limit is None else min(room, limit)):
        try:
            await service.on_disk(upload.write, piece)
        except OSError:
            upload.cancel()  # an incomplete blob must not fill the disk
            raise


async def _finish(service: Service, route: Route, upload: Upload, digest: Digest) -> web.StreamResponse:
    try:
        await service.on_disk(upload.commit, digest)
    except DigestMismatch as error:
        raise Refusal(
            Answer.DIGEST_INVALID, "the content has another digest", detail={"digest": str(digest)}
        ) from error
    service.repositories.make(route.name).add_blob(digest)
    return _created(route, digest)


def _created(route: Route, digest: Digest) -> web.StreamResponse:
    location = f"/v2/{route.name}/blobs/{digest}"
    return web.Response(status=201, headers={"Location": location, "Docker-Content-Digest": str(digest)})


def _accepted(route: Route, upload: Upload) -> web.StreamResponse:
    return web.Response(status=202, headers=_progress(route, upload))


def _progress(route: Route, upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{route.name}/blobs/uploads/{upload.id}",
        "Docker-Upload-UUID": upload.id,
        "Range": f"0-{max(0, upload.size - 1)}",
    }
