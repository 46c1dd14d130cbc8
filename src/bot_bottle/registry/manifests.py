"""Manifests: GET, HEAD, PUT and DELETE, by tag and by digest.

Source: OCI distribution-spec v1.1, "Pulling manifests", "Pushing Manifests", "Pushing Manifests with
Subject", "Deleting tags", "Deleting Manifests"; image-spec v1.1, manifest.md and image-index.md.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.errors import ImageError
from bot_bottle.image.spec import INDEX_TYPES, MANIFEST_TYPES, Digest, parse_json
from bot_bottle.registry.errors import Answer, Refusal
from bot_bottle.registry.repositories import Manifest, Repositories, Repository, Service
from bot_bottle.registry.routes import Route, as_tag
from bot_bottle.registry.store import CANONICAL

_TAGS_LIMIT = 64  # in one request


async def get(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """Send a manifest, byte for byte as it was pushed."""
    _, manifest = _known(service, route)
    headers = {
        "Content-Type": manifest.media_type,
        "Docker-Content-Digest": str(manifest.digest),
        "ETag": f'"{manifest.digest}"',
    }
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(manifest.size)})
    return web.Response(body=service.repositories.store.read(manifest.digest), headers=headers)


async def put(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """Store a manifest, and tag it."""
    reference = route.tag_or_digest
    tags = [as_tag(tag) for tag in request.query.getall("tag", [])] if isinstance(reference, Digest) else []
    if len(tags) > _TAGS_LIMIT:
        raise Refusal(Answer.TOO_LARGE, f"{_TAGS_LIMIT} tags are the most that one request may have")
    data = await service.body(request, service.limits.manifest)
    digest = Digest.of(data, reference.algorithm if isinstance(reference, Digest) else CANONICAL)
    if isinstance(reference, Digest) and reference != digest:
        raise Refusal(
            Answer.DIGEST_INVALID, "the manifest has another digest", detail={"digest": str(digest)}
        )
    media_type, document = read(data, request.headers.get("Content-Type", ""))
    _check_config(service.repositories, route.name, document)
    subject = _subject(document)
    await service.on_disk(service.repositories.store.put, data, digest.algorithm)
    named = (reference,) if isinstance(reference, str) else tuple(tags)
    repository = service.repositories.make(route.name)
    repository.add(Manifest(digest, media_type, len(data), subject), named)
    headers = {"Location": f"/v2/{route.name}/manifests/{digest}", "Docker-Content-Digest": str(digest)}
    if subject is not None:
        headers["OCI-Subject"] = str(subject)
    if tags:
        headers["OCI-Tag"] = ", ".join(tags)
    return web.Response(status=201, headers=headers)


async def delete(service: Service, _request: BaseRequest, route: Route) -> web.StreamResponse:
    """Remove a tag, or a manifest with all its tags, from the repository."""
    repository, manifest = _known(service, route)
    if isinstance(reference := route.tag_or_digest, str):
        del repository.tags[reference]
    else:
        repository.remove(manifest)
        await service.on_disk(service.repositories.release, manifest.digest)
    return web.Response(status=202)


def _known(service: Service, route: Route) -> tuple[Repository, Manifest]:
    reference = route.tag_or_digest
    repository = service.repositories.find(route.name)
    manifest = repository.find(reference) if repository is not None else None
    if repository is None or manifest is None:
        raise Refusal(Answer.MANIFEST_UNKNOWN, "manifest unknown", detail={"reference": str(reference)})
    return repository, manifest


def read(data: bytes, content_type: str) -> tuple[str, dict[str, Any]]:
    """Parse a manifest; return its media type and content. Raises ManifestInvalid.

    Parameters of the Content-Type are ignored, as the specification asks.
    """
    try:
        document = parse_json(data, "manifest")
    except ImageError as error:
        raise Refusal(Answer.MANIFEST_INVALID, error.message, detail=error.why[:200]) from error
    inner = document.get("mediaType")
    said = content_type.partition(";")[0].strip()
    media_type = said or str(inner)
    if media_type not in MANIFEST_TYPES | INDEX_TYPES or (inner is not None and inner != media_type):
        raise Refusal(
            Answer.MANIFEST_INVALID,
            "the media type is not one of image manifests and indexes, or the manifest itself says another",
            detail={"Content-Type": said[:200], "mediaType": str(inner)[:200]},
        )
    if document.get("schemaVersion") != 2:
        raise Refusal(Answer.MANIFEST_INVALID, "schemaVersion must be 2")
    if media_type in MANIFEST_TYPES:
        _digest(document.get("config"), "config")
    for descriptor in _list(document, "layers") + _list(document, "manifests"):
        _digest(descriptor, "layers and manifests")
    return media_type, document


def _check_config(repositories: Repositories, name: str, document: dict[str, Any]) -> None:
    """Check that the config has arrived. Other content may come later, or never.

    Clients push an index of which they have one platform only, and some a manifest before its layers; the
    specification leaves it to the registry. Missing content is an error for a client that pulls it.
    """
    if "config" not in document:
        return
    digest = Digest(document["config"]["digest"])
    if not repositories.has_blob(digest, name):
        raise Refusal(
            Answer.MANIFEST_BLOB_UNKNOWN, "the repository lacks the manifest's config", detail=[str(digest)]
        )


def _subject(document: dict[str, Any]) -> Digest | None:
    subject = document.get("subject")
    return None if subject is None else _digest(subject, "subject")


def _digest(descriptor: object, what: str) -> Digest:
    if isinstance(descriptor, dict):
        try:
            return Digest(descriptor.get("digest") or "")
        except ImageError:
            pass
    raise Refusal(Answer.MANIFEST_INVALID, f"{what}: not a descriptor with a digest that is known")


def _list(document: dict[str, Any], key: str) -> list[Any]:
    items = document.get(key) or []
    if not isinstance(items, list):
        raise Refusal(Answer.MANIFEST_INVALID, f"{key} must be a list")
    return items
