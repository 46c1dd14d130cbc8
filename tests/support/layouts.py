"""One image in every form that archives have, made of what `docker save` wrote: all with its very config."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tests.support.crafted import files_tar, saved_files

Form = Literal["docker-save", "docker-save-new", "oci-folder", "oci-tar", "oci-gzip"]
FORMS: tuple[Form, ...] = ("docker-save", "docker-save-new", "oci-folder", "oci-tar", "oci-gzip")

_OCI = "application/vnd.oci.image"


def archive(saved: Path, form: Form, folder: Path) -> Path:
    """Return the image of an archive in another form, made in a new `folder`."""
    if form == "docker-save":
        return _old_layout(saved, folder)
    layout = folder / "layout"
    _layout(saved, layout, compressed=form == "oci-gzip", docker_too=form == "docker-save-new")
    return layout if form in ("oci-folder", "oci-gzip") else tar_of(layout, folder / "image.tar")


def tar_of(layout: Path, target: Path) -> Path:
    """Write a folder as a tar, and return that."""
    with tarfile.open(target, "w") as tar:
        for path in sorted(layout.rglob("*")):
            tar.add(path, path.relative_to(layout), recursive=False)
    return target


def change_manifest(layout: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of the one image in a folder, and with it the digest in the index."""
    index = json.loads((layout / "index.json").read_text())
    [entry] = index["manifests"]
    manifest = json.loads((layout / _path(entry)).read_text())
    change(manifest)
    entry.update(_blob(layout, json.dumps(manifest).encode(), entry["mediaType"]))
    (layout / "index.json").write_text(json.dumps(index))


def config_digest(saved: Path) -> str:
    """Return the digest of the config of the one image in what `docker save` wrote."""
    with tarfile.open(saved) as tar:
        [entry] = json.loads(_content(tar, "manifest.json"))
        return f"sha256:{hashlib.sha256(_content(tar, entry['Config'])).hexdigest()}"


def _old_layout(saved: Path, folder: Path) -> Path:
    """Return the image as docker saved it before version 25, which may be as it is."""
    with tarfile.open(saved) as tar:
        if "index.json" not in tar.getnames():
            return saved
        [entry] = json.loads(_content(tar, "manifest.json"))
        config = _content(tar, entry["Config"])
        layers = [_plain(_content(tar, name)) for name in entry["Layers"]]
    (folder / "saved.tar").write_bytes(files_tar(saved_files(layers, config)))
    return folder / "saved.tar"


def _layout(saved: Path, layout: Path, *, compressed: bool, docker_too: bool) -> None:
    (layout / "blobs" / "sha256").mkdir(parents=True)
    with tarfile.open(saved) as tar:
        [entry] = json.loads(_content(tar, "manifest.json"))
        config = _content(tar, entry["Config"])
        layers = [_plain(_content(tar, name)) for name in entry["Layers"]]
    kind = "tar"
    if compressed:
        layers, kind = [gzip.compress(layer, 1, mtime=0) for layer in layers], "tar+gzip"
    described = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json"}
    manifest: dict[str, Any] = {
        **described,
        "config": _blob(layout, config, f"{_OCI}.config.v1+json"),
        "layers": [_blob(layout, layer, f"{_OCI}.layer.v1.{kind}") for layer in layers],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [_blob(layout, json.dumps(manifest).encode(), described["mediaType"])],
    }
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps(index))
    if docker_too:  # as docker 25 and newer write it
        entry["Config"] = _path(manifest["config"])
        entry["Layers"] = [_path(layer) for layer in manifest["layers"]]
        (layout / "manifest.json").write_text(json.dumps([entry]))


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def _plain(layer: bytes) -> bytes:
    """Decompress a layer where the engine that saved it keeps its layers compressed."""
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


def _blob(layout: Path, data: bytes, media_type: Any) -> dict[str, Any]:
    descriptor = {
        "mediaType": media_type,
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
    }
    (layout / _path(descriptor)).write_bytes(data)
    return descriptor


def _path(descriptor: dict[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")
