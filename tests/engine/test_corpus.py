"""The corpus: images with every hard case, whose tree is held against those of umoci, docker and podman."""

from __future__ import annotations

import os
import random
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bot_bottle.errors import ImageError
from tests.corpus import trees
from tests.corpus.crafted import CRAFTED, saved_layers
from tests.corpus.differences import REASONS, REFUSALS, unexplained
from tests.corpus.makers import Maker, makers, zstd_makers
from tests.corpus.scenarios import LARGE, SCENARIOS, SLOWEST
from tests.corpus.witnesses import Witness, ours, witnesses
from tests.support.crafted import Member
from tests.support.engine_matrix import DOCKERS, PODMANS, slow_on
from tests.support.engines import CHECKOUT, CHOSEN, Docker, Podman, call
from tests.support.layer_cases import OURS_ALONE, REFUSED

# makers, and where the images are that they make
MAKERS = {
    "docker": "docker",
    "buildkit": "docker",
    "podman": "podman",
    "buildah": "podman",
    "umoci": "podman",
}

# the same for those that compress layers by zstd
ZSTD_MAKERS = {"buildkit zstd": "docker", "podman zstd": "podman"}

# which maker's images are made on which engine: by this machine's own each, by the others their own
MADE = [
    *((None, None, by) for by in MAKERS),
    *((docker, None, "buildkit") for docker in DOCKERS[1:]),
    *((None, podman, "podman") for podman in PODMANS[1:]),
    *((docker, None, "buildkit zstd") for docker in DOCKERS if "containerd" in (docker or CHOSEN)),
    *((None, podman, "podman zstd") for podman in PODMANS),
]
if CHOSEN:
    MADE = [each for each in MADE if {**MAKERS, **ZSTD_MAKERS}[each[2]] in CHOSEN]

# those are slow, but with the newest engines; of whose podman the layers by zstd are enough
SLOW_MADE = [each for each in MADE if not CHOSEN and each[2] in ZSTD_MAKERS]
SLOW_MADE = [each for each in SLOW_MADE if (each[0] or each[1]) not in (DOCKERS[-1], PODMANS[-1])]
SLOW_MADE += [] if CHOSEN else [(None, PODMANS[-1], "podman")]

# how docker and podman of any version, and containerd, say that layers cannot be unpacked
CANNOT_UNPACK = (
    "rocessing tar file|unpacking failed|failed to extract layer|invalid whiteout|invalid hardlink"
    "|unhandled tar header"
    "|duplicates of file paths|(mknod|openat|linkat|symlinkat|statat|mkdirat).*: "
)
# docker 28 takes the first, and docker with containerd's store the others too
TAKEN_BY_SOME = {
    *("through a dangling link", "the same name twice", "a folder twice"),
    "folder over a link of its layer",
}

# makers whose images are slow, but for one scenario, as those of other engines are: one builder of each kind
# of engine is enough for the others
SLOW_MAKERS, ONLY = ("docker", "buildah", "umoci", *ZSTD_MAKERS), "removed"

# what takes minutes, only by one of those makers that write their layers with the same code
BY_EVERY_WITNESS = [
    (scenario, by)
    for scenario in [*SCENARIOS, *LARGE]
    for by in MAKERS
    if scenario not in SLOWEST or by in ("docker", "buildah", "umoci")
]


@pytest.fixture(scope="module")
def maker(docker: Docker, podman: Podman) -> dict[str, Maker]:
    made = makers(docker, podman)
    assert list(made) == list(MAKERS)
    return {**made, **zstd_makers(docker, podman)}


@pytest.fixture(scope="module")
def witness(docker: Docker, podman: Podman) -> dict[str, Witness]:
    return witnesses(docker, podman)


@pytest.fixture
def asked(request: pytest.FixtureRequest, witness: dict[str, Witness]) -> dict[str, Witness]:
    """All witnesses; on another engine than this machine's own that engine, as the others have been asked."""
    given = request.node.callspec.params
    asked = [kind for kind in ("docker", "podman") if given.get(kind)]
    return {who: witness[who] for who in asked or witness}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not outlast its test: some images are large."""
    path = tmp_path / "work"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def hold(name: str, archive: Path, folder: Path, witness: dict[str, Witness]) -> None:
    """Hold our tree of an image against that of each witness, or the witness to its refusal."""
    tree = ours(archive)
    for who, look in witness.items():
        if refusal := REFUSALS.get((name, who)):
            with pytest.raises(AssertionError, match=refusal):
                look(archive, folder)
            continue
        for shown_by, theirs in look(archive, folder).items():
            differences = unexplained(name, shown_by, tree, theirs)
            assert not differences, f"{shown_by} differs in {len(differences)}:\n" + "\n".join(
                differences[:20]
            )


@pytest.mark.parametrize(
    ("docker", "podman", "by", "scenario"),
    [
        pytest.param(
            *each,
            scenario,
            id="-".join(filter(None, (scenario, *each))),
            marks=[pytest.mark.slow]
            if each in SLOW_MADE or ((any(each[:2]) or each[2] in SLOW_MAKERS) and scenario != ONLY)
            else slow_on(*each[:2]),
        )
        for scenario in SCENARIOS
        for each in MADE
        # what every witness is asked about below is not asked of two of them here
        if scenario == ONLY or any(each[:2]) or each[2] not in ("docker", "buildah", "umoci")
    ],
    indirect=["docker", "podman"],
)
def test_a_built_image_has_the_tree_that_its_engine_and_umoci_show(
    scenario: str, by: str, maker: dict[str, Maker], witness: dict[str, Witness], folder: Path
) -> None:
    archive, kind = maker[by](SCENARIOS[scenario], folder), {**MAKERS, **ZSTD_MAKERS}[by]
    hold(f"{by} {scenario}", archive, folder, {who: witness[who] for who in ("umoci", kind)})
    damage(archive, places=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("scenario", "by"), BY_EVERY_WITNESS)
def test_a_built_image_has_the_tree_that_every_witness_shows(
    scenario: str, by: str, maker: dict[str, Maker], witness: dict[str, Witness], folder: Path
) -> None:
    archive = maker[by]({**SCENARIOS, **LARGE}[scenario], folder)
    if scenario in SLOWEST:
        witness = {who: witness[who] for who in ("umoci", MAKERS[by])}
    hold(f"{by} {scenario}", archive, folder, witness)
    if scenario in SCENARIOS:
        damage(archive, places=4)


@pytest.mark.each_docker
@pytest.mark.each_podman
@pytest.mark.newest
@pytest.mark.podmans_slow
@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_image_has_the_tree_that_the_witnesses_show(
    name: str, asked: dict[str, Witness], folder: Path
) -> None:
    hold(name, CRAFTED[name](folder), folder, asked)


@pytest.mark.parametrize("name", CRAFTED)
def test_a_damaged_image_is_refused_or_unharmed(name: str, folder: Path) -> None:
    damage(CRAFTED[name](folder), places=8)


def damage(archive: Path, places: int) -> None:
    """Hold that an image, cut or with a flipped bit in `places` of each file, is refused or the same."""
    whole = ours(archive)
    files = [archive] if archive.is_file() else [path for path in archive.rglob("*") if path.is_file()]
    dice = random.Random(0)  # noqa: S311
    for file in files:
        data = file.read_bytes()
        for at in dice.sample(range(len(data)), min(places, len(data))):
            flipped = bytes([data[at] ^ 1 << dice.randrange(8)])
            for damaged in (data[:at], data[:at] + flipped + data[at + 1 :]):
                file.write_bytes(damaged)
                with suppress(ImageError):
                    assert ours(archive) == whole, (file, at)
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["sparse", "sparse, old GNU", "headers"])
def test_a_layer_of_gnu_tar_has_the_tree_that_gnu_tar_unpacks(name: str, folder: Path) -> None:
    archive = CRAFTED[name](folder)
    root = folder / "root"
    root.mkdir()
    with tarfile.open(archive) as saved:
        for layer in saved:
            if layer.name.endswith("/layer.tar"):
                argv = ["tar", "-C", str(root), "-p", "--same-owner", "-xf", "-"]
                content = saved.extractfile(layer)
                assert content is not None
                call(argv, dict(os.environ), content.read())
    assert ours(archive) == trees.of_folder(root)


@pytest.mark.each_docker
@pytest.mark.each_podman
@pytest.mark.newest
@pytest.mark.others_slow
@pytest.mark.parametrize("name", OURS_ALONE)
def test_a_layer_that_docker_and_podman_refuse_has_the_tree_that_umoci_shows(
    name: str, asked: dict[str, Witness], folder: Path
) -> None:
    archive = saved_layers(OURS_ALONE[name].layers, folder)
    refused_or_alike(name, archive, folder, asked)
    hold(name, archive, folder, {who: asked[who] for who in asked if who == "umoci"})


@pytest.mark.each_docker
@pytest.mark.each_podman
@pytest.mark.newest
@pytest.mark.others_slow
@pytest.mark.parametrize("layers", REFUSED.values(), ids=REFUSED)
def test_a_layer_that_we_refuse_is_refused_by_docker_and_podman(
    layers: list[list[Member]], asked: dict[str, Witness], folder: Path
) -> None:
    refused(saved_layers(layers, folder), folder, asked)


def refused(archive: Path, folder: Path, witness: dict[str, Witness]) -> None:
    """Hold that docker and podman refuse an image's layers."""
    for who in witness.keys() - {"umoci"}:
        with pytest.raises(AssertionError, match=CANNOT_UNPACK):
            witness[who](archive, folder)


def refused_or_alike(name: str, archive: Path, folder: Path, witness: dict[str, Witness]) -> None:
    """Hold that docker and podman refuse an image's layers, or that what takes them shows what ours shows."""
    for who in witness.keys() - {"umoci"}:
        words, shown = "", {}
        try:
            shown = witness[who](archive, folder)
        except AssertionError as error:
            words = str(error)
        assert re.search(CANNOT_UNPACK, words) or (shown and name in TAKEN_BY_SOME), (who, words)
        for shown_by, theirs in shown.items():
            assert not unexplained(name, shown_by, ours(archive), theirs)


def test_every_reason_for_a_difference_is_documented() -> None:
    text = " ".join((CHECKOUT / "docs" / "fidelity.md").read_text().split())
    for reason in REASONS:
        assert reason.text in text
