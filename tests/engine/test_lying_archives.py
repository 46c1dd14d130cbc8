"""Archives whose documents, layers and digests do not go together are refused, in either layout."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bottle import Bottle
from tests.support.layouts import Form, archive, change_manifest, tar_of


def rewritten(saved: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy an archive with its members' contents changed."""
    with tarfile.open(saved) as source, tarfile.open(target, "w") as sink:
        for member in source:
            file = source.extractfile(member) if member.isfile() else None
            data = change(member.name, file.read()) if file else b""
            member.size = len(data)
            sink.addfile(member, io.BytesIO(data))
    return target


def in_manifest(change: Callable[[dict[str, object]], object]) -> Callable[[str, bytes], bytes]:
    """Change the one entry of manifest.json."""

    def apply(name: str, data: bytes) -> bytes:
        if name != "manifest.json":
            return data
        document = json.loads(data)
        change(document[0])
        return json.dumps(document).encode()

    return apply


def flip(name: str, data: bytes) -> bytes:
    if not name.endswith("layer.tar"):
        return data
    middle = 700  # in the first member's name or content
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NOTHING = f"sha256:{0:064x}"
OUTSIDE = "sha256:../../../../../../../../etc/passwd"
LIES: dict[str, Callable[[str, bytes], bytes]] = {
    "a layer with a flipped bit": flip,
    "a layer that is missing": in_manifest(lambda entry: entry.update(Layers=["nothing.tar"])),
    "layers in another order": in_manifest(lambda entry: entry["Layers"].reverse()),  # type: ignore[attr-defined]
    "one layer too few": in_manifest(lambda entry: entry["Layers"].pop()),  # type: ignore[attr-defined]
    "a config that is missing": in_manifest(lambda entry: entry.update(Config="nothing.json")),
    "a config outside": in_manifest(lambda entry: entry.update(Config="../../../etc/passwd")),
    "a manifest of another form": lambda name, data: b"[1]" if name == "manifest.json" else data,
    "a manifest that is no JSON": lambda name, data: b"{" if name == "manifest.json" else data,
    "a manifest without end": lambda name, data: b"[" * 9_000_000 if name == "manifest.json" else data,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_archive_whose_parts_do_not_match_is_refused(
    bottle: Bottle, saved: Path, tmp_path: Path, lie: Callable[[str, bytes], bytes]
) -> None:
    path = rewritten(archive(saved, "docker-save", tmp_path), tmp_path / "lies.tar", lie)
    bottle("pack", "--archive", path).failed(105)
    assert not bottle.leftovers
    assert bottle.artifacts == []


def in_layer(layout: Path) -> None:
    largest = max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(flip("layer.tar", largest.read_bytes()))


def without_layer(layout: Path) -> None:
    max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size).unlink()


def in_oci_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the manifest, and say its new digest in the index."""
    return lambda layout: change_manifest(layout, change)


def in_index(text: str) -> Callable[[Path], None]:
    def apply(layout: Path) -> None:
        (layout / "index.json").write_text(text)

    return apply


OCI_LIES: dict[str, Callable[[Path], None]] = {
    "a layer with a flipped bit": in_layer,
    "a layer that is missing": without_layer,
    "layers in another order": in_oci_manifest(lambda manifest: manifest["layers"].reverse()),
    "one layer too few": in_oci_manifest(lambda manifest: manifest["layers"].pop()),
    "a layer of another size": in_oci_manifest(lambda manifest: manifest["layers"][0].update(size=1)),
    "a config that is missing": in_oci_manifest(lambda manifest: manifest["config"].update(digest=NOTHING)),
    "a config outside": in_oci_manifest(lambda manifest: manifest["config"].update(digest=OUTSIDE)),
    "a layer outside": in_oci_manifest(lambda manifest: manifest["layers"][0].update(digest=OUTSIDE)),
    "an index of another form": in_index("[1]"),
    "an index that is no JSON": in_index("{"),
    "an index without end": in_index("[" * 9_000_000),
    "an index that names nothing": in_index(
        json.dumps({"manifests": [{"mediaType": MANIFEST, "digest": NOTHING, "size": 7}]})
    ),
}


@pytest.mark.parametrize("lie", OCI_LIES.values(), ids=OCI_LIES)
@pytest.mark.parametrize("form", ["oci-folder", "docker-save-new"])
def test_an_oci_layout_whose_parts_do_not_match_is_refused(
    bottle: Bottle, saved: Path, tmp_path: Path, form: Form, lie: Callable[[Path], None]
) -> None:
    path = archive(saved, form, tmp_path)
    lie(tmp_path / "layout")
    if form == "docker-save-new":
        path = tar_of(tmp_path / "layout", tmp_path / "lies.tar")
    bottle("pack", "--archive", path).failed(105)
    assert not bottle.leftovers
    assert bottle.artifacts == []


def test_a_blob_that_is_not_what_its_name_says_is_refused(
    bottle: Bottle, saved: Path, tmp_path: Path
) -> None:
    layout = archive(saved, "oci-folder", tmp_path)
    largest = max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        file.write(b"changed")
    digest = hashlib.sha256(largest.read_bytes()).hexdigest()
    done = bottle("pack", "--archive", layout)
    done.failed(105, largest.name)
    assert digest in done.err  # what it is instead
    assert not bottle.leftovers
