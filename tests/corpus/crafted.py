"""Images written byte by byte: what no maker at hand would write, and every form that archives have."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import zstandard

from tests.support.crafted import (
    Member,
    config,
    device,
    fifo,
    file,
    files_tar,
    folder,
    hardlink,
    layer,
    saved,
    symlink,
    xattrs,
)
from tests.support.layer_cases import CASES, LOWER, Case, together

_OCI = "application/vnd.oci.image"

Layers = list[list[Member]]
Pack = Callable[[bytes], tuple[bytes, str]]


def plain(data: bytes) -> tuple[bytes, str]:
    return data, "tar"


def gzipped(data: bytes) -> tuple[bytes, str]:
    return gzip.compress(data, 1, mtime=0), "tar+gzip"


def zstd(data: bytes) -> tuple[bytes, str]:
    """Several frames one after another, as parallel compressors write."""
    half = len(data) // 2
    return b"".join(zstandard.compress(part) for part in (data[:half], data[half:])), "tar+zstd"


class Layout:
    """An OCI layout that is being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, media_type: str, **facts: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **facts}

    def image(
        self, layers: Iterable[bytes], packs: Iterable[Pack], architecture: str = "amd64", **facts: Any
    ) -> dict[str, Any]:
        tars = list(layers)
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": self.blob(config(tars, architecture), f"{_OCI}.config.v1+json"),
            "layers": [
                self.blob(data, f"{_OCI}.layer.v1.{kind}")
                for data, kind in (pack(tar) for tar, pack in zip(tars, packs, strict=True))
            ],
        }
        return self.blob(json.dumps(manifest).encode(), manifest["mediaType"], **facts)  # type: ignore[arg-type]

    def index(self, manifests: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": manifests}
        return self.blob(json.dumps(document).encode(), f"{_OCI}.index.v1+json", **facts)

    def finish(self, *manifests: dict[str, Any]) -> Path:
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
        return self.folder


def _movable(cases: dict[str, Case]) -> Layers:
    return together({name: case for name, case in cases.items() if not case.alone})[0]


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw, effective and permitted
ACL = struct.pack("<I", 2) + b"".join(  # user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))
)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


XATTRS: Layers = [
    [
        file("ping", mode=0o755, pax_headers=xattrs(security__capability=_text(CAPABILITY))),
        file("acl", mode=0o640, pax_headers=xattrs(system__posix_acl_access=_text(ACL))),
        folder("acl-folder", 0o750, pax_headers=xattrs(system__posix_acl_default=_text(ACL))),
        file("user", pax_headers=xattrs(user__k="v", user__binary="\udcff\0=\n", user__empty="")),
        hardlink("linked", "user", pax_headers=xattrs(user__more="m")),
        folder("user-folder", pax_headers=xattrs(user__of="folder")),
        file("trusted", pax_headers=xattrs(trusted__t="t")),
        symlink("link", "user", pax_headers=xattrs(trusted__s="s")),
        file("owned", uid=7, mode=0o4755, pax_headers=xattrs(security__capability=_text(CAPABILITY))),
    ],
    [folder("user-folder", 0o700), file("trusted", b"replaced")],
]

# one second before 1970 and the last that fits in 64 bits of nanoseconds, owners of every size, 4 KB of path
NUMBERS: Layers = [
    [
        file("before", mtime=-1), file("long before", mtime=-(2**40)), file("epoch", mtime=0),
        file("late", mtime=2**33), file("too late", mtime=2**40),
        file("part", mtime=1, pax_headers={"mtime": "1.999999999"}),
        file("octal", uid=0o7777777), file("binary", uid=0o10000000, gid=2**31), file("last", uid=2**32 - 2),
        device("char", 4095, 1048575), file("pax", pax_headers={"uid": "2147483648", "gid": "4294967294"}),
        file("d" * 255 + "/" + "f" * 255), symlink("longest", "t" * 4095), fifo("p" * 100), fifo("p" * 101),
    ]
]  # fmt: skip


def _tarred(folder: Path, name: str, *options: str) -> bytes:
    """What GNU tar makes of a folder in `folder`."""
    argv = ["tar", "-C", str(folder), "--sort=name", "--numeric-owner", *options, "-cf", "-", name]
    return subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout


def sparse_layer(folder: Path, *form: str) -> bytes:
    """Sparse files as GNU tar writes them in one of its forms."""
    inner = folder / "-".join(form).replace("--", "").replace("=", "-")
    inner.mkdir()
    for name, parts in (("holes", range(0, 6_000_000, 150_000)), ("end", [6_000_000]), ("start", [0])):
        with (inner / name).open("wb") as file:
            for part in parts:
                file.seek(part)
                file.write(f"part at {part}".encode() * 50)
            file.truncate(7_000_001)
    with (inner / "nothing").open("wb") as file:
        file.truncate(500_000)
    return _tarred(folder, inner.name, "--sparse", *form)


def _sparse_layers(folder: Path) -> list[bytes]:
    versions = ("0.0", "0.1", "1.0")
    return [sparse_layer(folder, "--format=posix", f"--sparse-version={version}") for version in versions]


def _header_layers(folder: Path) -> list[bytes]:
    """The same files with headers in each form that GNU tar writes, as far as it can hold them."""
    layers = []
    for form in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        (folder / form).mkdir()
        short = folder / form / "short"
        short.mkdir(mode=0o2750)
        (short / "file").write_bytes(form.encode() * 200)
        (short / "second").hardlink_to(short / "file")
        if form != "v7":
            inner = folder / form / ("p" * 60) / ("q" * 60)
            inner.mkdir(parents=True)
            (inner / "file").write_bytes(b"")
            (inner / "link").symlink_to("file")
            os.mkfifo(short / "pipe")
        if form in ("gnu", "posix"):
            (short / ("n" * 200)).symlink_to("t" * 300)
        layers.append(_tarred(folder, form, f"--format={form}"))
    return layers


def saved_layers(layers: Layers, folder: Path) -> Path:
    path = folder / "saved.tar"
    path.write_bytes(saved(*map(layer, layers)))
    return path


def _saved_tars(tars: list[bytes], folder: Path) -> Path:
    path = folder / "saved.tar"
    path.write_bytes(saved(*tars))
    return path


def _packed(layers: Layers, packs: list[Pack], folder: Path) -> Path:
    layout = Layout(folder / "layout")
    tars = [layer(members) for members in layers]
    return layout.finish(layout.image(tars, [packs[number % len(packs)] for number in range(len(tars))]))


def _several(folder: Path) -> Path:
    """An index as BuildKit makes it: two platforms, and an attestation beside each."""
    layout = Layout(folder / "layout")
    manifests = []
    for architecture, data in (("arm64", b"other"), ("amd64", b"ours")):
        tar = layer([*LOWER, file("which", data)])
        image = layout.image(
            [tar], [gzipped], architecture, platform={"os": "linux", "architecture": architecture}
        )
        manifests += [image, _attestation(layout, image["digest"])]
    return layout.finish(layout.index(manifests))


def _attestation(layout: Layout, subject: str) -> dict[str, Any]:
    statement = json.dumps({"_type": "https://in-toto.io/Statement/v0.1", "subject": []}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": layout.blob(config([statement], "unknown"), f"{_OCI}.config.v1+json"),
        "layers": [layout.blob(statement, "application/vnd.in-toto+json")],
    }
    marks = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": subject}
    return layout.blob(
        json.dumps(manifest).encode(),
        f"{_OCI}.manifest.v1+json",
        platform={"os": "unknown", "architecture": "unknown"},
        annotations=marks,
    )


def _both_forms(folder: Path) -> Path:
    """What newer docker saves from the containerd image store: a layout and manifest.json, in one tar."""
    layout = Layout(folder / "layout")
    tar = layer([*LOWER, file("n")])
    image = layout.image([tar], [plain], platform={"os": "linux", "architecture": "amd64"})
    layout.finish(layout.index([image, _attestation(layout, image["digest"])]))
    manifest = json.loads((layout.folder / _blob_path(image)).read_bytes())
    entry = {
        "Config": _blob_path(manifest["config"]),
        "RepoTags": ["both:latest"],
        "Layers": [_blob_path(each) for each in manifest["layers"]],
    }
    (layout.folder / "manifest.json").write_text(json.dumps([entry]))
    names = sorted(path.relative_to(layout.folder) for path in layout.folder.rglob("*") if path.is_file())
    path = folder / "saved.tar"
    path.write_bytes(files_tar({str(name): (layout.folder / name).read_bytes() for name in names}))
    return path


def _blob_path(descriptor: dict[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


# the folders of cases that stand side by side in one image
HOMES = {
    b"case%d" % number: name for number, name in enumerate(n for n, case in CASES.items() if not case.alone)
}

CRAFTED: dict[str, Callable[[Path], Path]] = {
    "rules": partial(saved_layers, _movable(CASES)),
    **{name: partial(saved_layers, case.layers) for name, case in CASES.items() if case.alone},
    "extended attributes": partial(saved_layers, XATTRS),
    "numbers": partial(saved_layers, NUMBERS),
    "sparse": lambda folder: _saved_tars(_sparse_layers(folder), folder),
    "sparse, old GNU": lambda folder: _saved_tars([sparse_layer(folder, "--format=gnu")], folder),
    "headers": lambda folder: _saved_tars(_header_layers(folder), folder),
    "gzip": partial(_packed, _movable(CASES), [gzipped]),
    "zstd": partial(_packed, _movable(CASES), [zstd]),
    "every compression": partial(
        _packed, [LOWER, [file("f", b"up")], [file(".wh.l", b"")]], [plain, gzipped, zstd]
    ),
    "no files": partial(saved_layers, [[], []]),
    "no layers": partial(saved_layers, []),
    "several platforms": _several,
    "both forms": _both_forms,
}
