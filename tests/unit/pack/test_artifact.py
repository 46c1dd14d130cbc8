"""The packers: what the native one puts into an artifact, and how both fail."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from bot_bottle.errors import ArtifactError, DiskFullError, ImageError, UsageError
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.pack.artifact import PackResult, guest_name, layer_id, pack_smolvm, smolvm_pack_argv
from bot_bottle.pack.options import PackOptions, source_date
from bot_bottle.smolmachine.format import digest_of, read, verify
from bot_bottle.vm.guest_rootfs import Guest

SaveImage = Callable[..., Path]
Pack = Callable[..., PackResult]


def members_of(artifact: Path) -> dict[str, bytes]:
    assets = artifact.read_bytes()[: read(artifact).footer.assets_size]
    tar = zstandard.ZstdDecompressor().stream_reader(assets, read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        return {member.name: members.extractfile(member).read() for member in members}  # type: ignore[union-attr]


def test_an_artifact_says_what_the_image_says(tmp_path: Path, save_image: SaveImage, pack: Pack) -> None:
    archive = save_image(
        Entrypoint=["/bin/tini", "--"],
        Cmd=["sh", "-c", "echo 'hi there'"],
        Env=["PATH=/bin", "EMPTY=", "NOVALUE", "A=b=c", "PATH=/usr/bin"],
        WorkingDir="/work",
        User="1000:100",
    )
    out = tmp_path / "made.smolmachine"
    result = pack(archive, out)
    manifest = verify(out).manifest
    assert manifest == result.manifest
    assert manifest.entrypoint == ("/bin/tini", "--")
    assert manifest.cmd == ("sh", "-c", "echo 'hi there'")
    assert manifest.env == ("PATH=/bin", "EMPTY=", "A=b=c", "PATH=/usr/bin")
    assert (manifest.workdir, manifest.user) == ("/work", "1000:100")
    assert manifest.network is False
    assert manifest.smolvm_version == "1.32.2"
    assert manifest.platform == str(Platform.of_this_machine())
    assert manifest.digest.startswith("sha256:")
    assert manifest.image == f"bot-bottle/{manifest.digest[7:23]}"
    assert manifest.created == ""
    assert (result.size, result.digest) == (out.stat().st_size, digest_of(out))


def test_an_artifact_holds_guest_and_root(
    tmp_path: Path, save_image: SaveImage, pack: Pack, guest: Guest
) -> None:
    out = tmp_path / "made.smolmachine"
    told: list[int] = []
    manifest = pack(save_image({"etc/motd": b"hello\n"}), out, on_bytes=told.append).manifest
    layer = manifest.assets.layers[0]
    members = members_of(out)
    assert list(members) == ["agent-rootfs.tar", layer.path]
    assert members["agent-rootfs.tar"] == b"".join(guest.read())
    with tarfile.open(fileobj=io.BytesIO(members[layer.path])) as tar:
        assert tar.extractfile("etc/motd").read() == b"hello\n"  # type: ignore[union-attr]
    assert sum(told) == layer.size == manifest.image_size


def test_the_same_image_gives_the_same_bytes(tmp_path: Path, save_image: SaveImage, pack: Pack) -> None:
    archive = save_image(Cmd=["sh"])
    results = {
        pack(archive, tmp_path / f"{threads}", options={"threads": threads}).digest for threads in (1, 2, 4)
    }
    memory = io.BytesIO()
    results.add(pack(archive, memory).digest)
    assert results == {Digest.of(memory.getvalue())}


def test_options_are_in_the_manifest_and_in_the_key(
    tmp_path: Path, save_image: SaveImage, pack: Pack
) -> None:
    given = {"name": "local/me:1", "cpus": 2, "mem": 1024, "created": "1970-01-01T00:00:00Z"}
    manifest = pack(save_image(), tmp_path / "made", options=given).manifest
    assert {name: getattr(manifest, name) for name in ("cpus", "mem", "created")} == {
        name: given[name] for name in ("cpus", "mem", "created")
    }
    assert manifest.image == "local/me:1"
    assert PackOptions(**given).key_parts() == tuple(  # type: ignore[arg-type]
        sorted((name, str(value)) for name, value in given.items())
    )
    assert PackOptions(threads=3, foreign=True).key_parts() == ()


def test_an_image_for_another_machine_is_refused(tmp_path: Path, save_image: SaveImage, pack: Pack) -> None:
    other = "arm64" if Platform.of_this_machine().architecture == "amd64" else "amd64"
    archive = save_image(architecture=other)
    platform = Platform("linux", other)
    with pytest.raises(ImageError, match=other) as caught:
        pack(archive, tmp_path / "made", platform=platform)
    assert "--platform" in caught.value.next_step
    assert not (tmp_path / "made").exists()
    allowed = pack(archive, tmp_path / "made", platform=platform, options={"foreign": True})
    assert allowed.manifest.platform == f"linux/{other}"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("docker.io/library/debian:12@sha256:ab", "docker.io/library/debian:12@sha256:ab"),
        ("/home/me/my project", "home/me/my-project"),
        ("../../etc", "etc"),
        ("a/../b", "a/./b"),
        ("-rf", "rf"),
        ("ä", ""),
        ("x" * 1000, "x" * 512),
    ],
)
def test_names_are_made_ones_that_the_guest_takes(name: str, wanted: str) -> None:
    assert guest_name(name) == wanted


def test_a_layer_is_named_by_what_it_is_made_of() -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    names = {
        layer_id(ids, version) for ids in ([one], [two], [one, two], [two, one], []) for version in (1, 2)
    }
    assert len(names) == 10
    assert layer_id([one], 1) == layer_id(iter([one]), 1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(None, ""), ("", ""), ("0", "1970-01-01T00:00:00Z"), ("1700000000", "2023-11-14T22:13:20Z")],
)
def test_source_date_epoch_is_the_time_of_the_artifact(text: str | None, wanted: str) -> None:
    assert source_date({} if text is None else {"SOURCE_DATE_EPOCH": text}) == wanted


@pytest.mark.parametrize("text", ["now", "1e3", "9" * 30])
def test_an_invalid_source_date_epoch_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        source_date({"SOURCE_DATE_EPOCH": text})


def test_a_full_disk_says_what_is_needed(small_disk: Path, save_image: SaveImage, pack: Pack) -> None:
    archive = save_image({"random": os.urandom(3_000_000)})
    out = small_disk / "made.smolmachine"
    with pytest.raises(DiskFullError) as caught:
        pack(archive, out)
    assert not out.exists()
    assert str(small_disk) in caught.value.message
    assert "No space left" in caught.value.why
    needed = float(caught.value.why.split("up to ")[1].split(" MB")[0])
    assert 2 < needed < 6
    assert "1.0 MB are free" in caught.value.why
    with (small_disk / "given").open("wb", buffering=0) as file, pytest.raises(DiskFullError):
        pack(archive, file)


def test_a_file_that_exists_is_not_touched(tmp_path: Path, save_image: SaveImage, pack: Pack) -> None:
    out = tmp_path / "mine"
    out.write_text("mine")
    with pytest.raises(ArtifactError):
        pack(save_image(), out)
    assert out.read_text() == "mine"


def test_an_image_that_fails_while_it_is_read_leaves_nothing(
    tmp_path: Path, save_image: SaveImage, pack: Pack
) -> None:
    archive = save_image({"random": os.urandom(40_000_000)})
    with pytest.raises(ImageError):
        pack(archive, tmp_path / "made", on_bytes=lambda _count: os.truncate(archive, 1000))
    assert not (tmp_path / "made").exists()


def test_a_pack_of_200_megabytes_takes_little_memory(tmp_path: Path, save_image: SaveImage) -> None:
    archive = save_image({"random": os.urandom(100_000_000), "zeros": bytes(100_000_000)})
    program = (
        "import sys; from pathlib import Path\n"
        "from bot_bottle.image.archive import open_archive; from bot_bottle.rootfs.flatten import flatten\n"
        "from bot_bottle.vm.guest_rootfs import find_guest\n"
        "from bot_bottle.pack.options import PackOptions\n"
        "from bot_bottle.pack.artifact import pack_native\n"
        "with open_archive(Path(sys.argv[1])) as image:\n"
        "    pack_native(image, flatten(image), find_guest(), Path(sys.argv[2]), flatten_version=1,\n"
        "                options=PackOptions(threads=4))\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    argv = [sys.executable, "-c", program, str(archive), str(tmp_path / "made")]
    done = subprocess.run(argv, capture_output=True, check=True)
    # kB; below 100 MB on an idle machine, 115 MB were seen where the threads wait for a processor
    assert int(done.stdout) < 150_000


def test_argv_of_smolvm_names_an_absolute_archive() -> None:
    argv = smolvm_pack_argv(Path("/tmp/image.tar"), Path("/tmp/out"))
    assert argv == ("pack", "create", "--image", "/tmp/image.tar", "-o", "/tmp/out")
    assert smolvm_pack_argv(Path("image.tar"), Path("out"))[3] == str(Path.cwd() / "image.tar")
    with pytest.raises(UsageError):
        smolvm_pack_argv(Path("/tmp/image"), Path("/tmp/out"))


@pytest.fixture
def smolvm(tmp_path: Path) -> Callable[[str], Callable[[Sequence[str]], None]]:
    """A program in smolvm's place, as its own packing needs KVM: `body` sees the output's name as $out."""

    def make(body: str) -> Callable[[Sequence[str]], None]:
        program = tmp_path / "smolvm"
        program.write_text(f'#!/bin/sh\nout="$6"; printf stub >"$out"; chmod +x "$out"\n{body}\n')
        program.chmod(0o755)

        def run(argv: Sequence[str]) -> None:
            subprocess.run([program, *argv], check=True)

        return run

    return make


def test_smolvm_packs_and_only_the_artifact_is_kept(
    tmp_path: Path, artifact: Path, smolvm: Callable[[str], Callable[[Sequence[str]], None]]
) -> None:
    out = tmp_path / "out" / "made.smolmachine"
    out.parent.mkdir()
    result = pack_smolvm(smolvm(f'cp {artifact} "$out.smolmachine"'), tmp_path / "image.tar", out)
    assert out.read_bytes() == artifact.read_bytes()
    assert result == PackResult(artifact.stat().st_size, digest_of(artifact), read(artifact).manifest)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("body", ["true", 'printf broken >"$out.smolmachine"', "exit 3"])
def test_smolvm_fails_and_nothing_is_left(
    tmp_path: Path, body: str, smolvm: Callable[[str], Callable[[Sequence[str]], None]]
) -> None:
    out = tmp_path / "out" / "made.smolmachine"
    out.parent.mkdir()
    with pytest.raises((ArtifactError, subprocess.CalledProcessError)):
        pack_smolvm(smolvm(body), tmp_path / "image.tar", out)
    assert not list(out.parent.iterdir())
