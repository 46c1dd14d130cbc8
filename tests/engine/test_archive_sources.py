"""`--archive` takes what `docker load` takes, from real tools, and what it does not take it explains."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.bottle import PROGRAM, Bottle, Ended
from tests.support.clients import skopeo
from tests.support.engines import OWNER, Docker, Podman
from tests.support.images import busybox_context
from tests.support.smolmachines import root_of

TOOLS = {"gz": ["gzip", "-c"], "bz2": ["bzip2", "-c"], "xz": ["xz", "-0", "-c"], "zst": ["zstd", "-q", "-c"]}


@pytest.fixture
def offline(cache_dir: Path) -> Bottle:
    """Run `bottle` where no engine answers."""
    return Bottle(cache_dir, {"DOCKER_HOST": f"unix://{cache_dir}/nothing", "BOT_BOTTLE_ENGINE": "docker"})


def from_stdin(bottle: Bottle, path: Path, *args: str) -> Ended:
    with path.open("rb") as file:
        done = subprocess.run(
            [PROGRAM, *args], env=bottle.env(), stdin=file, capture_output=True, text=True, timeout=120
        )
    return Ended(done.returncode, done.stdout, done.stderr)


def digest(done: Ended) -> str:
    return str(json.loads(done.line)["digest"])


@pytest.fixture(scope="module")
def plain(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the artifact of the saved image as it is."""
    return digest(Bottle(tmp_path_factory.mktemp("plain"))("pack", "--json", "--archive", saved))


# the unit tests read archives of each form
@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form == "zst" else pytest.mark.slow) for form in TOOLS]
)
def test_a_compressed_archive_gives_the_same_artifact(
    offline: Bottle, saved: Path, plain: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"  # its name says nothing
    with path.open("wb") as file:
        subprocess.run([*TOOLS[form], str(saved)], stdout=file, check=True, timeout=60)
    assert digest(offline("pack", "--json", "--archive", path)) == plain
    assert not offline.leftovers
    assert digest(from_stdin(offline, path, "pack", "--json", "--archive", "-")) == plain
    assert offline("verify", offline("pack", "--archive", path).path, "--archive", path).code == 0
    assert not offline.leftovers


def test_an_archive_on_standard_input_is_packed(
    offline: Bottle, saved: Path, plain: str, tmp_path: Path
) -> None:
    done = from_stdin(offline, saved, "pack", "--json", "--archive", "-")
    assert digest(done) == plain
    assert "standard input" in done.err
    assert not offline.leftovers
    (tmp_path / "empty").touch()
    for args in (("run", "-d"), ("fan", "2")):
        asked = (*args, "--archive", "-", "--", "true")
        from_stdin(offline, saved, *asked).failed(2, "standard input only works for one bottle")
    from_stdin(offline, tmp_path / "empty", "pack", "--archive", "-").failed(105, "Next:")


def test_a_bomb_is_refused_before_the_disk_is_full(offline: Bottle, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.zst"
    with path.open("wb") as file:
        pipe = "head -c 300000000 /dev/zero | zstd -q -c"
        subprocess.run(["sh", "-c", pipe], stdout=file, check=True, timeout=120)
    refused = offline("pack", "--archive", path, "--max-image-size", "50m")
    refused.failed(105, "is larger than allowed", "--max-image-size")
    assert not offline.leftovers


def test_an_artifact_given_as_an_archive_is_refused(offline: Bottle, saved: Path) -> None:
    artifact = offline("pack", "--archive", saved).path
    offline("pack", "--archive", artifact).failed(
        101, "is an artifact already", "smolvm machine create --from"
    )


@pytest.fixture(scope="module")
def pair(podman: Podman, docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two images in one archive, by each engine; their only difference is a file."""
    folder = busybox_context(tmp_path_factory.mktemp("pair"))
    names = [f"bot-bottle-test-{which}:{OWNER}" for which in ("one", "two")]
    for name in names:
        (folder / "rootfs" / "etc" / "which").write_text(name)
        podman.build(folder, "--tag", name)
        docker.build(folder, "--tag", name)
    by_podman, by_docker = folder / "podman.tar", folder / "docker.tar"
    podman.podman("save", "--multi-image-archive", f"--output={by_podman}", *names)
    docker.docker("save", "--output", str(by_docker), *names)
    docker.docker("rmi", *names)
    return {"podman": by_podman, "docker": by_docker}


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_one_of_several_images_is_packed_by_its_name(
    offline: Bottle, pair: dict[str, Path], engine: str
) -> None:
    refused = offline("pack", "--archive", pair[engine])
    refused.failed(105, "images", f"bot-bottle-test-one:{OWNER}", "choose one by its name or digest")
    [offered] = [line.partition("digest: ")[2] for line in refused.err.splitlines() if "Next:" in line]
    assert offline("pack", "--archive", offered).path
    for which in ("one", "two"):
        name = f"bot-bottle-test-{which}:{OWNER}"
        assert (
            root_of(offline("pack", "--archive", f"{pair[engine]}:{name}").path)["etc/which"] == name.encode()
        )
    offline("pack", "--archive", f"{pair[engine]}:nothing").failed(105, "no image named nothing")


@pytest.mark.parametrize(
    "form", ["docker-archive:{}", "docker-archive:{}:some/name:1", "oci-archive:{}:name"]
)
def test_what_skopeo_writes_is_packed(
    offline: Bottle, saved: Path, plain: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "copied.tar"
    skopeo("copy", f"docker-archive:{saved}", form.format(path))
    assert offline("pack", "--archive", path).path
