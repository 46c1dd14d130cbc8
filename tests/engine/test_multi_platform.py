"""A real image of two platforms: whichever way it comes, this machine's image is packed, and it alone."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot_bottle import ephemeral_registry
from bot_bottle.registry.registry import Reference, Registry
from tests.support.bottle import Bottle
from tests.support.clients import skopeo
from tests.support.engines import LABEL, OWNER, Docker, Podman, call
from tests.support.images import busybox_context
from tests.support.smolmachines import root_of

PLATFORMS = ("linux/arm64", "linux/amd64")  # this machine's is not the first


@dataclass(frozen=True)
class Multi:
    """An index in an OCI layout, its digest, and the digest of the config of each platform's image."""

    layout: Path
    digest: str
    configs: dict[str, str]


@pytest.fixture(scope="session")
def multi(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Multi:
    """Build an image for each platform by podman, which puts them in an index."""
    folder = busybox_context(tmp_path_factory.mktemp("multi"))
    name = "localhost/bot-bottle-test-multi"
    podman.podman("manifest", "create", name)
    configs = {}
    for platform in PLATFORMS:
        (folder / "rootfs" / "etc" / "platform").write_text(platform)
        image = podman.build(folder, f"--platform={platform}", f"--label={LABEL}={OWNER}")
        podman.podman("manifest", "add", name, f"containers-storage:{image}")
        configs[platform] = f"sha256:{image}"
    layout = folder / "layout"
    podman.podman("manifest", "push", "--all", name, f"oci:{layout}:multi")
    # podman 4 cannot list its images while an index is among them whose images came from its own storage
    podman.podman("manifest", "rm", name)
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    return Multi(layout, str(entry["digest"]), configs)


@pytest.fixture
def registry(multi: Multi) -> Iterator[Registry]:
    """A registry to which the whole index was pushed, as app:latest."""
    with ephemeral_registry(push=True) as registry:
        target = f"docker://{registry.target('app')}"
        skopeo(
            "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{multi.layout}", target
        )
        yield registry


@pytest.fixture
def reference(registry: Registry, multi: Multi) -> Reference:
    reference = registry.resolve("app")
    assert str(reference.digest) == multi.digest
    return reference


def as_tar(layout: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for each in sorted(layout.rglob("*")):
            tar.add(each, each.relative_to(layout), recursive=False)
    return path


def packed(bottle: Bottle, *args: str | Path) -> tuple[str, bytes]:
    """Pack; give the artifact's digest, and which platform's image is in it."""
    described = json.loads(bottle("pack", "--json", *args).line)
    return described["digest"], root_of(Path(described["path"]))["etc/platform"]


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_an_archive_of_two_platforms_is_packed_for_this_machine(
    cache_dir: Path, multi: Multi, form: str, tmp_path: Path
) -> None:
    archive = multi.layout if form == "folder" else as_tar(multi.layout, tmp_path / "image.tar")
    assert packed(Bottle(cache_dir), "--archive", archive)[1] == b"linux/amd64"


def test_the_registry_serves_this_machines_image_of_an_archive(multi: Multi, crane: Path) -> None:
    with ephemeral_registry() as registry:
        reference = registry.load(multi.layout, "app")
        config = call([str(crane), "config", "--insecure", str(reference)], {"HOME": "/nonexistent"})
        assert json.loads(config)["architecture"] == "amd64"


def test_an_index_comes_back_whole(reference: Reference, multi: Multi, crane: Path, tmp_path: Path) -> None:
    source = ("--preserve-digests", "--src-tls-verify=false", f"docker://{reference}")
    skopeo("copy", "--all", *source, f"oci:{tmp_path}/skopeo:x")
    call(
        [str(crane), "pull", "--format=oci", str(reference), str(tmp_path / "crane")],
        {"HOME": "/nonexistent"},
    )
    for client in ("skopeo", "crane"):
        [entry] = json.loads((tmp_path / client / "index.json").read_text())["manifests"]
        assert entry["digest"] == multi.digest
        for blob in (multi.layout / "blobs" / "sha256").iterdir():
            assert (tmp_path / client / "blobs" / "sha256" / blob.name).read_bytes() == blob.read_bytes()


def test_a_sparse_index_is_taken_and_this_machines_image_opened(multi: Multi, crane: Path) -> None:
    """As a client pushes that holds one platform of an image: its manifest first, and the index over both."""
    with ephemeral_registry(push=True) as registry:
        insecure = "--dest-tls-verify=false"
        target = registry.target("app")
        skopeo("copy", "--preserve-digests", insecure, f"oci:{multi.layout}", f"docker://{target}")
        skopeo(
            *("copy", "--multi-arch=index-only", "--preserve-digests", insecure),
            *(f"oci:{multi.layout}", f"docker://{target}"),
        )
        reference = registry.resolve("app")
        assert str(reference.digest) == multi.digest
        with registry.open_image(reference) as image:
            assert str(image.image_id) == multi.configs["linux/amd64"]


def test_what_was_pushed_is_opened_as_this_machines_image(
    registry: Registry, reference: Reference, multi: Multi
) -> None:
    with registry.open_image(reference) as image:
        assert str(image.image_id) == multi.configs["linux/amd64"]
        assert {multi.digest, multi.configs["linux/amd64"]} < set(map(str, image.digests))


@pytest.mark.parametrize("pulled", [PLATFORMS[1:], PLATFORMS], ids=["one", "both"])
def test_an_image_of_which_docker_has_one_platform_or_both_is_packed_alike(
    docker: Docker,
    bottle: Bottle,
    registry: Registry,
    multi: Multi,
    pulled: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """An engine that keeps one platform of a name has this machine's in the end; others keep the index."""
    target = registry.target("app")
    for platform in pulled:
        docker.docker("pull", "--quiet", "--platform", platform, target)
    name = f"bot-bottle-test-multi:{OWNER}"
    docker.docker("tag", target, name)
    docker.docker("rmi", target)
    try:
        wanted = packed(Bottle(tmp_path / "archive"), "--archive", multi.layout)
        assert wanted[1] == b"linux/amd64"
        for transport in ("save", "push", "direct", "auto"):
            own = Bottle(tmp_path / transport, bottle.changes)
            assert packed(own, "--image", name, "--transport", transport) == wanted
        saved = tmp_path / "saved.tar"
        docker.docker("save", "--output", str(saved), name)
        assert packed(Bottle(tmp_path / "saved"), "--archive", saved) == wanted
    finally:
        docker.docker("rmi", name)


def test_podman_pulls_this_machines_image(podman: Podman, reference: Reference, multi: Multi) -> None:
    podman.podman("pull", "--quiet", "--tls-verify=false", str(reference))
    [entry] = json.loads(podman.podman("image", "inspect", str(reference)))
    assert f"sha256:{entry['Id']}" == multi.configs["linux/amd64"]


def test_an_image_of_another_platform_alone_is_explained(
    podman: Podman, podman_bottle: Bottle, multi: Multi, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.tar"
    podman.podman("save", "--format=oci-archive", f"--output={saved}", multi.configs["linux/arm64"][7:])
    podman_bottle("pack", "--archive", saved).failed(
        105, "has no image for linux/amd64", "linux/arm64", "Next:"
    )
    podman_bottle("pack", "--engine=podman", "--image", multi.configs["linux/arm64"]).failed(
        105, "linux/arm64"
    )
