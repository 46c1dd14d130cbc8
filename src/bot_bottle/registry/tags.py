"""Lists in pages: the tags of a repository, and the manifests that refer to another.

Source: OCI distribution-spec v1.1, "Listing Tags", "Listing Referrers"; RFC 8288 (Link).
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.image.spec import INDEX_TYPES
from bot_bottle.registry.errors import JSON, Answer, Refusal, name_unknown
from bot_bottle.registry.repositories import Manifest, Service
from bot_bottle.registry.routes import Route

_PAGE = 1000
_PAGE_BYTES = 4 << 20
_INDEX = "application/vnd.oci.image.index.v1+json"


async def tags(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """List the tags, `n` at most, after `last`."""
    repository = service.repositories.find(route.name)
    if repository is None:
        raise name_unknown()
    asked = request.query.get("n", str(_PAGE))
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10):
        raise Refusal(Answer.PAGE_INVALID, "n must be a number", detail=asked[:200])
    count = min(int(asked), _PAGE)
    found = repository.sorted_tags(request.query.get("last"))
    page = found[:count]
    body = json.dumps({"name": route.name, "tags": page}).encode()
    more = bool(page) and len(found) > count
    query = {"n": count, "last": page[-1]} if more else {}
    return web.Response(body=body, headers={"Content-Type": JSON, **_link(request, query)})


async def referrers(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """List the manifests whose subject is the digest; `artifactType` filters them."""
    subject = route.digest
    repository = service.repositories.find(route.name)
    wanted = request.query.get("artifactType")
    after = request.query.get("last")
    found = [] if repository is None else list(repository.referrers(subject, after))
    page, more = await service.on_disk(_page, service, found, wanted)
    headers = {"Content-Type": _INDEX}
    if wanted is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    query = {"last": more.digest.text, **({"artifactType": wanted} if wanted else {})} if more else {}
    body = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": page}
    return web.Response(body=json.dumps(body).encode(), headers={**headers, **_link(request, query)})


def _page(
    service: Service, found: list[Manifest], wanted: str | None
) -> tuple[list[dict[str, Any]], Manifest | None]:
    """Return one page of descriptors, and the last manifest of the page if there are more."""
    page: list[dict[str, Any]] = []
    size = 0
    for index, manifest in enumerate(found):
        descriptor = _descriptor(service, manifest)
        if wanted is None or descriptor.get("artifactType") == wanted:
            page.append(descriptor)
            size += len(json.dumps(descriptor))
        if (index + 1 >= _PAGE or size >= _PAGE_BYTES) and index + 1 < len(found):
            return page, manifest
    return page, None


def _descriptor(service: Service, manifest: Manifest) -> dict[str, Any]:
    document = json.loads(service.repositories.store.read(manifest.digest))
    artifact = document.get("artifactType")
    if not artifact and manifest.media_type not in INDEX_TYPES:
        artifact = document["config"].get("mediaType")
    descriptor: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": str(manifest.digest),
        "size": manifest.size,
    }
    if artifact:
        descriptor["artifactType"] = artifact
    if annotations := document.get("annotations"):
        descriptor["annotations"] = annotations
    return descriptor


def _link(request: BaseRequest, query: dict[str, Any]) -> dict[str, str]:
    return {"Link": f'<{request.path}?{urlencode(query)}>; rel="next"'} if query else {}
