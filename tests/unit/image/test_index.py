"""Which image of an OCI layout is taken, whatever engines and other tools put beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.corpus.crafted import Layout, gzipped, plain
from tests.support.crafted import config, file, layer

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest, Platform

AMD64 = Platform("linux", "amd64")
V3 = Platform("linux", "amd64", "v3")
OCI = "application/vnd.oci.image"
CHART = "application/vnd.cncf.helm.config.v1+json"
Descriptor = dict[str, Any]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def one(
    layout: Layout, content: str, architecture: str = "amd64", variant: str = "", **facts: Any
) -> Descriptor:
    """Write an image of one file, and describe it with its platform."""
    platform = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
    tar = layer([file("which", content.encode())])
    return layout.image([tar], [gzipped], architecture, platform=platform, **facts)


def named(descriptor: Descriptor, name: str) -> Descriptor:
    return {**descriptor, "annotations": {"io.containerd.image.name": name}}


def attestation(layout: Layout, subject: Descriptor) -> Descriptor:
    """What BuildKit writes beside an image: an in-toto statement that looks like an image's manifest."""
    statement = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": layout.blob(config([statement], "unknown"), f"{OCI}.config.v1+json"),
        "layers": [layout.blob(statement, "application/vnd.in-toto+json")],
    }
    return layout.blob(
        json.dumps(manifest).encode(),
        f"{OCI}.manifest.v1+json",
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject["digest"],
        },
    )


def signature(layout: Layout, subject: Descriptor, **more: Any) -> Descriptor:
    """What cosign writes under a tag of its own: the config is an image's, and says amd64 of no system."""
    payload = b'{"critical": {"type": "cosign container image signature"}}'
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": layout.blob(config([payload]), f"{OCI}.config.v1+json"),
        "layers": [layout.blob(payload, "application/vnd.dev.cosign.simplesigning.v1+json")],
        **more,
    }
    return layout.blob(
        json.dumps(manifest).encode(),
        f"{OCI}.manifest.v1+json",
        annotations={"org.opencontainers.image.ref.name": f"{subject['digest'].replace(':', '-')}.sig"},
    )


def artifact(layout: Layout, kind: str, **more: Any) -> Descriptor:
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": layout.blob(b"{}", kind),
        "layers": [layout.blob(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        **more,
    }
    return layout.blob(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")


def taken(folder: Path, wanted: Platform = AMD64) -> str:
    """Give the content of the file in the image that is taken."""
    with open_archive(folder, platform=wanted) as image:
        [only] = image.layers
        with only.open() as stream:
            data = stream.read()
        return data[512:].partition(b"\0")[0].decode()


def without(layout: Layout, *descriptors: Descriptor) -> None:
    """Take blobs out of the layout, as if they had never been pulled."""
    for each in descriptors:
        (layout.folder / "blobs" / "sha256" / each["digest"][7:]).unlink()


Write = Callable[[Layout], list[Descriptor]]

TAKEN: dict[str, Write] = {
    "an index with attestations, as docker build makes it": lambda to: [
        to.index([other := one(to, "other", "arm64"), mine := one(to, "ours"), attestation(to, other),
                  attestation(to, mine)])
    ],
    "an index within an index": lambda to: [
        to.index([to.index([one(to, "other", "arm64"), one(to, "ours")])])
    ],
    "the index of a flat layout, as buildah and crane write it": lambda to: [
        one(to, "other", "arm64"),
        one(to, "ours"),
    ],
    "two names of one image": lambda to: [named(one(to, "ours"), "a:1"), named(one(to, "ours"), "b:1")],
    "a name of the index and one of its image": lambda to: [
        named(to.index([mine := one(to, "ours")]), "a:1"),
        named(mine, "b:1"),
    ],
    "a signature under a tag beside it": lambda to: [mine := one(to, "ours"), signature(to, mine)],
    "a referrer beside it": lambda to: [
        mine := one(to, "ours"),
        artifact(to, "application/vnd.oci.empty.v1+json", artifactType="application/spdx+json", subject=mine),
    ],
    "a signature within the index": lambda to: [to.index([mine := one(to, "ours"), signature(to, mine)])],
    "a chart beside it": lambda to: [artifact(to, CHART), one(to, "ours")],
    "variants of the processor in an index": lambda to: [
        to.index([one(to, "base"), one(to, "ours", variant="v3"), one(to, "second", variant="v2"),
                  one(to, "too new", variant="v4")])
    ],
    "variants of the processor side by side": lambda to: [
        one(to, "second", variant="v2"),
        one(to, "ours", variant="v3"),
    ],
    "two images of an index that serve as well": lambda to: [to.index([one(to, "ours"), one(to, "second")])],
    "an image that says its platform in its config alone": lambda to: [
        to.image([layer([file("which", b"ours")])], [plain]),
        to.image([layer([file("which", b"other")])], [plain], "s390x"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_the_image_for_this_machine_is_taken(layout: Layout, case: str) -> None:
    assert taken(layout.finish(*TAKEN[case](layout)), V3) == "ours"


def test_every_digest_on_the_way_identifies_it(layout: Layout) -> None:
    mine = one(layout, "ours")
    inner = layout.index([mine, attestation(layout, mine)])
    outer = layout.index([inner])
    unrelated = layout.index([one(layout, "other", "arm64")])
    with open_archive(layout.finish(outer, unrelated, mine), platform=AMD64) as image:
        expected = {each["digest"] for each in (mine, inner, outer)} | {str(Digest.of(image.config_bytes))}
        assert {str(digest) for digest in image.digests} == expected


def test_an_index_without_the_images_of_other_platforms_is_read(layout: Layout) -> None:
    """As docker saves an image that was pulled for one platform."""
    arm, s390, mine = one(layout, "arm", "arm64"), one(layout, "s390", "s390x"), one(layout, "ours")
    folder = layout.finish(layout.index([arm, s390, mine, attestation(layout, arm)]))
    without(layout, arm, s390)
    assert taken(folder) == "ours"


def test_an_index_without_the_image_of_this_platform_is_refused(layout: Layout) -> None:
    mine = one(layout, "ours")
    folder = layout.finish(layout.index([mine, one(layout, "arm", "arm64")]))
    without(layout, mine)
    with pytest.raises(ImageError, match="does not have the image for linux/amd64") as caught:
        taken(folder)
    assert "--platform linux/amd64" in caught.value.next_step


def test_a_manifest_whose_parts_are_missing_is_refused(layout: Layout) -> None:
    mine = one(layout, "ours")
    manifest = json.loads((layout.folder / "blobs" / "sha256" / mine["digest"][7:]).read_bytes())
    folder = layout.finish(layout.index([mine]))
    without(layout, manifest["layers"][0])
    with pytest.raises(ImageError, match="the archive lacks layer sha256"):
        taken(folder)
    without(layout, manifest["config"])
    with pytest.raises(ImageError, match="lacks"):
        taken(folder)


NOTHING: dict[str, tuple[Write, str, str]] = {
    "other platforms": (
        lambda to: [to.index([one(to, "arm", "arm64"), one(to, "s390", "s390x")])],
        "has no image for linux/amd64",
        "linux/arm64, linux/s390x",
    ),
    "a variant that does not run": (
        lambda to: [to.index([one(to, "new", variant="v9")])],
        "has no image for linux/amd64",
        "linux/amd64/v9",
    ),
    "artifacts": (
        lambda to: [
            artifact(to, CHART),
            artifact(to, "application/vnd.oci.empty.v1+json", artifactType="application/spdx+json"),
        ],
        "has no container image",
        "application/spdx+json, application/vnd.cncf.helm.config.v1+json",
    ),
    "a signature": (
        lambda to: [signature(to, one(to, "ours"))],
        "has no container image",
        "application/vnd.dev.cosign.simplesigning.v1+json",
    ),
    "nothing": (lambda to: [], "has no image at all", ""),
    "an empty index": (lambda to: [to.index([])], "has no image at all", ""),
}


@pytest.mark.parametrize("case", NOTHING)
def test_that_there_is_no_image_is_explained(layout: Layout, case: str) -> None:
    write, message, why = NOTHING[case]
    folder = layout.finish(*write(layout))
    with pytest.raises(ImageError, match=message) as caught:
        taken(folder)
    assert why in caught.value.why
    assert caught.value.next_step


def test_several_images_are_not_chosen_from(layout: Layout) -> None:
    first, second = one(layout, "first"), one(layout, "second")
    for entries in ([first, second], [named(first, "a:1"), named(second, "b:1")]):
        folder = layout.finish(*entries)
        with pytest.raises(ImageError, match="several images for linux/amd64") as caught:
            taken(folder)
        assert first["digest"] in caught.value.why
        assert ("b:1" in caught.value.why) == ("annotations" in entries[0])


def test_an_encrypted_layer_is_explained(layout: Layout) -> None:
    tar = layer([file("which")])
    mine = layout.image([tar], [lambda data: (data, "tar+gzip+encrypted")])
    with pytest.raises(ImageError, match="is encrypted"):
        taken(layout.finish(mine))


@pytest.mark.parametrize("count", [4, 5])
def test_the_depth_of_indexes_is_bounded(layout: Layout, count: int) -> None:
    entry = one(layout, "ours")
    for _ in range(count):
        entry = layout.index([entry])
    folder = layout.finish(entry)
    if count == 4:
        assert taken(folder) == "ours"
    else:
        with pytest.raises(ImageError, match="nests its indexes too deeply"):
            taken(folder)


def test_the_number_of_manifests_is_bounded(layout: Layout) -> None:
    nobody = [
        {"mediaType": f"{OCI}.manifest.v1+json", "digest": f"sha256:{number:064x}"} for number in range(1001)
    ]
    with pytest.raises(ImageError, match="more than 1000 manifests"):
        taken(layout.finish(layout.index(nobody)))


@pytest.mark.parametrize(
    "lie",
    [
        {"size": 7},
        {"platform": "linux/amd64"},
        {"platform": {"os": 1, "architecture": "amd64"}},
        {"digest": "sha256:0"},
        {"digest": None},
    ],
    ids=str,
)
def test_a_descriptor_that_lies_is_refused(layout: Layout, lie: Descriptor) -> None:
    with pytest.raises(ImageError):
        taken(layout.finish(layout.index([{**one(layout, "ours"), **lie}])))


def test_a_manifest_that_was_changed_is_refused(layout: Layout) -> None:
    mine = one(layout, "ours")
    path = layout.folder / "blobs" / "sha256" / mine["digest"][7:]
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion": 3'))
    with pytest.raises(ImageError, match="is damaged"):
        taken(layout.finish(layout.index([mine])))
