"""What docker and podman keep of an image on disk, made of crafted layers."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from tests.support.crafted import config, digest

Entry = dict[str, object]


def recipe(layer: bytes, folder: Path) -> list[Entry]:
    """Unpack a layer's files into a folder, and give the recipe that puts its tar together again."""
    entries: list[Entry] = []
    at = 0

    def take(end: int) -> None:
        nonlocal at
        if end > at:
            entries.append({"type": 2, "payload": base64.b64encode(layer[at:end]).decode()})
        at = end

    with tarfile.open(fileobj=io.BytesIO(layer), errors="surrogateescape") as tar:
        for member in tar:
            if not member.isreg() or not member.size:
                continue
            take(member.offset_data)
            at += member.size
            data = layer[member.offset_data : at]
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            entries.append({"type": 1, **named(member.name), "size": member.size, "payload": "AAAAAAAAAAA="})
    take(len(layer))
    return [{**entry, "position": number} for number, entry in enumerate(entries)]


def named(name: str) -> Entry:
    """A name as the recipe has it: raw where it is not UTF-8."""
    raw = name.encode("utf-8", "surrogateescape")
    try:
        return {"name": raw.decode()}
    except UnicodeDecodeError:
        return {"name_raw": base64.b64encode(raw).decode()}


def write_recipe(path: Path, entries: list[Entry]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in entries).encode()))


def docker_storage(root: Path, *layers: bytes) -> tuple[str, str]:
    """Give the image's id, and what `docker info` says."""
    store = root / "image" / "overlay2"
    conf = config(layers)
    image_id = digest(conf)
    (store / "imagedb" / "content" / "sha256").mkdir(parents=True)
    (store / "imagedb" / "content" / "sha256" / image_id[7:]).write_bytes(conf)
    chain = ""
    for number, layer in enumerate(layers):
        diff_id = digest(layer)
        chain = digest(f"{chain} {diff_id}".encode()) if chain else diff_id
        place, folder = (
            store / "layerdb" / "sha256" / chain[7:],
            root / "overlay2" / f"cache{number}" / "diff",
        )
        place.mkdir(parents=True)
        folder.mkdir(parents=True)
        (place / "cache-id").write_text(f"cache{number}")
        write_recipe(place / "tar-split.json.gz", recipe(layer, folder))
    return image_id, json.dumps({"Driver": "overlay2", "DockerRootDir": str(root)})


def podman_storage(root: Path, *layers: bytes) -> tuple[str, str]:
    """Give the image's id, and what `podman info` says."""
    conf = config(layers)
    image_id = digest(conf)
    images, records = root / "overlay-images", root / "overlay-layers"
    (images / image_id[7:]).mkdir(parents=True)
    (images / image_id[7:] / f"={base64.b64encode(image_id.encode()).decode()}").write_bytes(conf)
    records.mkdir()
    known: list[Entry] = []
    parent = ""
    for number, layer in enumerate(layers):
        name = hashlib.sha256(f"{parent}{number}".encode()).hexdigest()
        folder = root / "overlay" / name / "diff"
        folder.mkdir(parents=True)
        write_recipe(records / f"{name}.tar-split.gz", recipe(layer, folder))
        known.append({"id": name, **({"parent": parent} if parent else {}), "diff-digest": digest(layer)})
        parent = name
    (images / "images.json").write_text(json.dumps([{"id": image_id[7:], "layer": parent}]))
    (records / "layers.json").write_text(json.dumps(known))
    store = {"graphDriverName": "overlay", "graphRoot": str(root)}
    return image_id, json.dumps({"store": store})
