"""An image becomes an artifact, once: found, exported and packed. Its engine is a program on PATH."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.crafted import digest, file, layer, saved, saved_files
from tests.support.fake_docker import CONTAINERD, Behaviour, FakeDocker
from tests.support.layouts import archive

from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.engine.source import Source
from bot_bottle.errors import BottleError, EngineError, UsageError
from bot_bottle.host import paths, rundir
from bot_bottle.host.progress import Progress
from bot_bottle.image.spec import Digest
from bot_bottle.pack.converter import Conversion, Converter
from bot_bottle.pack.options import ConvertOptions, Transport
from bot_bottle.smolmachine.format import verify

LAYERS = [layer([file("a", b"a" * 100)]), layer([file("b", b"b")])]
CONFIG = next(data for name, data in saved_files(LAYERS).items() if name.endswith(".json") and name[0] != "m")
CONFIG_DIGEST = digest(CONFIG)
MANIFEST_DIGEST = f"sha256:{'cd' * 32}"
CONTAINERD_STORE = Behaviour(info=CONTAINERD)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """A docker that is the only engine on PATH, with one image that it can only save."""
    made = FakeDocker(tmp_path / "docker")
    made.install(tmp_path / "bin", {"Id": CONFIG_DIGEST, "Size": 1000, "Config": {}})
    made.archive.write_bytes(saved(*LAYERS))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BOT_BOTTLE_ENGINE", "docker")
    return made


@pytest.fixture
def containerd(docker: FakeDocker, tmp_path: Path) -> FakeDocker:
    """The same with containerd's image store, where an image's id is the digest of its manifest."""
    folder = tmp_path / "oci"
    folder.mkdir()
    made = archive(docker.archive, "docker-save-new", folder)
    docker.archive.write_bytes(made.read_bytes())
    docker.install(tmp_path / "bin", {"Id": manifest_digest(folder), "Config": {}}, CONTAINERD_STORE)
    return docker


def manifest_digest(folder: Path) -> str:
    [entry] = json.loads((folder / "layout" / "index.json").read_text())["manifests"]
    return str(entry["digest"])


def convert(source: Source, transport: Transport = "auto", progress: Progress | None = None) -> Conversion:
    with rundir.run_dir() as run:
        options = ConvertOptions(transport=transport)
        return Converter(run, progress or Progress(), options).convert(source)


IMAGE = Source(image="crafted")


def test_an_image_is_exported_once_and_found_afterwards(docker: FakeDocker) -> None:
    made = convert(IMAGE)
    verify(made.entry.path)
    assert (made.image_id, made.entry.hit) == (CONFIG_DIGEST, False)
    again = convert(IMAGE)
    assert (again.entry.hit, again.entry.digest) == (True, made.entry.digest)
    assert docker.verbs().count("save") == 1


def test_an_archive_gives_the_same_artifact_and_needs_no_engine(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = convert(IMAGE)
    docker.calls_file.unlink()
    found = convert(Source(archive=docker.archive))
    assert (found.entry.hit, found.entry.digest) == (True, made.entry.digest)
    monkeypatch.setenv("BOT_BOTTLE_CACHE_DIR", str(tmp_path / "other"))
    anew = convert(Source(archive=docker.archive))
    assert (anew.entry.hit, anew.entry.digest) == (False, made.entry.digest)
    assert docker.calls == []


@pytest.mark.parametrize("transport", ["direct", "push"])
def test_an_archive_has_no_transport(docker: FakeDocker, transport: Transport) -> None:
    with pytest.raises(UsageError, match=transport):
        convert(Source(archive=docker.archive), transport)


def test_an_export_that_fails_leaves_nothing_in_the_cache(docker: FakeDocker) -> None:
    docker.behave(Behaviour(fails={"save": "unexpected EOF"}))
    with pytest.raises(EngineError):
        convert(IMAGE)
    assert [path.suffix for path in paths.artifacts_dir().iterdir()] == [".lock"]
    docker.behave(Behaviour())
    assert not convert(IMAGE).entry.hit


def test_an_export_of_another_image_is_refused(docker: FakeDocker) -> None:
    docker.archive.write_bytes(saved(layer([file("other", b"")])))
    with pytest.raises(BottleError):
        convert(IMAGE)
    assert not list(paths.artifacts_dir().glob("*.smolmachine"))


def test_a_transport_that_does_not_work_is_an_error_where_it_was_asked_for(docker: FakeDocker) -> None:
    with pytest.raises(EngineError, match="cannot be read from the storage of docker"):
        convert(IMAGE, "direct")
    assert "save" not in docker.verbs()


def test_another_transport_is_tried_and_said(
    containerd: FakeDocker, capsys: pytest.CaptureFixture[str]
) -> None:
    containerd.behave(Behaviour(info=CONTAINERD, fails={"tag": "the name cannot be given"}))
    made = convert(IMAGE, progress=Progress("plain"))
    assert "push does not work here" in capsys.readouterr().err
    assert containerd.verbs().count("save") == 1
    verify(made.entry.path)


def test_an_export_shows_the_config_digest_that_is_recorded(containerd: FakeDocker) -> None:
    made = convert(IMAGE, "save")
    assert made.image_id != CONFIG_DIGEST
    assert str(made.entry.key.config_digest) == CONFIG_DIGEST
    assert convert(IMAGE, "save").entry.hit
    assert containerd.verbs().count("save") == 1


def test_a_wrong_recorded_digest_is_put_right_by_the_export(docker: FakeDocker) -> None:
    ConfigDigests(paths.config_digests_dir()).add(CONFIG_DIGEST[7:], Digest.of(b"another"))
    made = convert(IMAGE)
    assert str(made.entry.key.config_digest) == CONFIG_DIGEST
    assert convert(IMAGE).entry.hit


def test_a_recorded_config_digest_finds_the_artifact_without_an_export(
    docker: FakeDocker, tmp_path: Path
) -> None:
    made = convert(IMAGE)
    docker.install(tmp_path / "bin", {"Id": MANIFEST_DIGEST, "Config": {}}, CONTAINERD_STORE)
    ConfigDigests(paths.config_digests_dir()).add(MANIFEST_DIGEST[7:], Digest(CONFIG_DIGEST))
    docker.calls_file.unlink()
    found = convert(IMAGE)
    assert (found.image_id, found.entry.hit, found.entry.digest) == (MANIFEST_DIGEST, True, made.entry.digest)
    assert not {"save", "push"} & set(docker.verbs())
