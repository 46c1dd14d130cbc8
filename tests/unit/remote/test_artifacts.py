"""Artifacts in a registry: what was pushed is pulled, whatever breaks on the way, and nothing else."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.bottle import wait_until
from tests.support.crafted import file, layer, saved
from tests.support.relay import Relay, Reply
from tests.unit.remote.conftest import Signers

from bot_bottle.cache.cache import Cache, Key
from bot_bottle.cache.entry import list_path
from bot_bottle.errors import ArtifactError, BottleError, DiskFullError, RegistryError, UntrustedError
from bot_bottle.host import paths
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.artifact import pack_native
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.remote import artifact as remote
from bot_bottle.remote.download import Pace, SlowError, downloaded
from bot_bottle.remote.manifests import put_manifest, read_manifest
from bot_bottle.remote.pull import pull, receive
from bot_bottle.remote.receipt import Receipt
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.session import Session
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.structs import replace
from bot_bottle.vm.guest_rootfs import Guest

BASE = [file(f"base/{name}", os.urandom(700_000)) for name in "abcdef"]
BEFORE = layer([file("app", b"version 1" * 1000)])
AFTER = layer([file("app", os.urandom(50_000))])


def make(folder: Path, name: str, guest: Guest, *layers: bytes) -> Path:
    """Pack an image, and list its parts beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name}.tar"
    archive.write_bytes(saved(*layers))
    out = folder / f"{name}.smolmachine"
    with open_archive(archive) as image, Parts(folder) as parts:
        pack_native(image, flatten(image), guest, out, flatten_version=FLATTEN_VERSION, parts=parts)
    return out


def key_of(path: Path) -> Key:
    """The key that the artifact's own manifest allows."""
    from bot_bottle.smolmachine.format import read

    manifest = read(path).manifest
    return Key(Digest(manifest.digest), "linux/amd64", "native", manifest.smolvm_version, 1, 1)


def push(reference: Reference, path: Path, key: Key | None = None, signing_key: Path | None = None) -> int:
    return remote.push(Session(reference), path, key, 1e9, signing_key=signing_key).sent


def pulled(
    reference: Reference, trusted: Path | None = None, *, allow_older: bool = False, pushed_as: str = ""
) -> Path:
    cache = Cache(paths.artifacts_dir())
    return pull(reference, trusted, cache, Progress(), allow_older=allow_older, pushed_as=pushed_as)[0].path


def large(tmp_path: Path, guest: Guest) -> Path:
    return make(tmp_path / "made", "one", guest, layer(BASE), BEFORE)


def test_what_was_pushed_is_pulled_and_the_second_time_nothing_is_sent(
    reference: Reference, relay: Relay, artifact: Path
) -> None:
    assert push(reference, artifact) == artifact.stat().st_size
    assert push(reference, artifact) == 0
    assert len(relay.paths("PATCH", "uploads")) == 1
    path = pulled(reference)
    assert path.read_bytes() == artifact.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(relay.paths("GET", "blobs")) == 1  # the artifact alone: its receipt is in a manifest
    assert pulled(reference) == path
    assert len(relay.paths("GET", "blobs")) == 1
    assert not list(paths.downloads_dir().iterdir())


def test_manifests_are_those_that_smolvm_writes(reference: Reference, artifact: Path) -> None:
    push(reference, artifact)
    session = Session(reference)
    index = json.loads(session.ask("GET", "manifests/1").document())
    assert index["manifests"][0]["platform"] == {"os": "linux", "architecture": "amd64"}
    manifest = json.loads(session.ask("GET", "manifests/1-linux-amd64").document())
    assert manifest["artifactType"] == "application/vnd.smolmachines.smolmachine.v1"
    assert [each["mediaType"] for each in manifest["layers"]] == [manifest["artifactType"]]
    config = session.ask("GET", f"blobs/{manifest['config']['digest']}").document()
    assert json.loads(config)["mode"] == manifest["annotations"]["com.smolmachines.pack.mode"]


def test_other_platforms_at_a_tag_stay_and_are_not_pulled(reference: Reference, artifact: Path) -> None:
    push(reference, artifact)
    session = Session(reference)
    index = json.loads(session.ask("GET", "manifests/1").document())
    index["manifests"][0]["platform"]["architecture"] = "arm64"
    headers = {"Content-Type": index["mediaType"]}
    session.ask("PUT", "manifests/1", json.dumps(index).encode(), headers, wanted=(201,)).__exit__()
    with pytest.raises(ArtifactError, match="has no artifact for linux/amd64") as refused:
        pulled(reference)
    assert "linux/arm64" in refused.value.why
    push(reference, artifact)
    there = json.loads(session.ask("GET", "manifests/1").document())["manifests"]
    assert sorted(each["platform"]["architecture"] for each in there) == ["amd64", "arm64"]
    assert pulled(reference)


def test_a_broken_upload_goes_on_where_it_ended(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    path = large(tmp_path, guest)
    relay.cut, relay.cuts = 1_000_000, 3
    push(reference, path)
    starts = [headers["content-range"] for how, _, headers in relay.seen if how == "PATCH"]
    assert [int(each.partition("-")[0]) for each in starts] == [0, 1_000_000, 2_000_000, 3_000_000]
    assert pulled(reference).read_bytes() == path.read_bytes()


def test_a_broken_download_goes_on_where_it_ended(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    path = large(tmp_path, guest)
    push(reference, path)
    relay.cut, relay.cuts = 1_000_000, 2
    assert pulled(reference).read_bytes() == path.read_bytes()
    blob = f"blobs/{Digest.of(path.read_bytes())}"
    last = path.stat().st_size - 1
    ranges = ["", f"bytes=1000000-{last}", f"bytes=2000000-{last}"]
    assert [each.partition(" ")[2] for each in relay.paths("GET", blob)] == ranges


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next_command(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    path = large(tmp_path, guest)
    push(reference, path)
    relay.cut, relay.cuts = 1_000_000, 1

    def refuse_ranges(_method: str, _path: str, headers: object) -> Reply | None:
        return (400, {}, b"") if "range" in headers else None  # type: ignore[operator]

    relay.answer = refuse_ranges
    with pytest.raises(RegistryError, match="refused a request"):
        pulled(reference)
    assert not Cache(paths.artifacts_dir()).list()
    relay.answer = lambda *_: None
    before = relay.sent
    assert pulled(reference).read_bytes() == path.read_bytes()
    assert relay.sent - before < path.stat().st_size - 900_000


def test_a_registry_without_ranges_sends_all_of_it_again(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    path = large(tmp_path, guest)
    push(reference, path)
    whole = path.read_bytes()

    def without(_method: str, _path: str, reply: Reply) -> Reply:
        return (200, {}, whole) if reply[0] == 206 else reply

    relay.change, relay.cut, relay.cuts = without, 1_000_000, 1
    assert pulled(reference).read_bytes() == whole


def test_parts_that_are_here_are_not_sent(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    old = large(tmp_path, guest)
    new = make(tmp_path / "made", "two", guest, layer(BASE), AFTER)
    push(reference, new)
    cache = Cache(paths.artifacts_dir())
    with cache.locked(key_of(old), source="", on_wait=lambda _: None) as slot:
        shutil.copy(old, slot.path)
        shutil.copy(list_path(old), list_path(slot.path))
        slot.publish()
    before = relay.sent
    path = pulled(reference)
    assert path.read_bytes() == new.read_bytes()
    assert relay.sent - before < 300_000 < new.stat().st_size // 10
    assert list_path(path).read_bytes() == list_path(new).read_bytes()


def test_a_part_list_that_lies_costs_a_download_and_nothing_else(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    old = large(tmp_path, guest)
    new = make(tmp_path / "made", "two", guest, layer(BASE), AFTER)
    other = make(tmp_path / "made", "three", guest, layer(list(reversed(BASE))), AFTER)
    assert other.stat().st_size == new.stat().st_size
    raw = list_path(other).read_bytes()
    list_path(new).write_bytes(raw)
    push(reference, new)
    folder = paths.artifacts_dir()
    folder.mkdir(parents=True)
    for each in (other, old):
        shutil.copy(each, folder / f"{'0' * 16}-{'1' * 16}.smolmachine")
        shutil.copy(list_path(each), folder / f"{'0' * 16}-{'1' * 16}.parts")
        break
    assert pulled(reference).read_bytes() == new.read_bytes()
    assert len(relay.paths("GET", str(Digest.of(new.read_bytes())))) >= 2


@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer"])
def test_other_bytes_than_those_of_the_digest_are_refused(
    reference: Reference, relay: Relay, artifact: Path, damage: str
) -> None:
    push(reference, artifact)
    blob = str(Digest.of(artifact.read_bytes()))
    damaged: Callable[[bytes], bytes] = {
        "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
        "truncated": lambda data: data[:-1],
        "longer": lambda data: b"x" + data,
    }[damage]

    def change(method: str, path: str, reply: Reply) -> Reply:
        return (reply[0], reply[1], damaged(reply[2])) if method == "GET" and blob in path else reply

    relay.change = change
    with pytest.raises(BottleError, match=r"other bytes|early"):
        pulled(reference)
    assert not Cache(paths.artifacts_dir()).list()


def test_what_nobody_signed_gets_no_key_of_a_build(reference: Reference, artifact: Path) -> None:
    key = key_of(artifact)
    push(reference, artifact, key)
    pulled(reference)
    cache = Cache(paths.artifacts_dir())
    assert cache.find(key) is None
    assert [entry.key.packer for entry in cache.list()] == ["pulled"]


def test_what_a_trusted_key_signed_is_what_a_build_would_find(
    reference: Reference, artifact: Path, signers: Signers
) -> None:
    key = key_of(artifact)
    push(reference, artifact, key, signers.key)
    pulled(reference, signers.trusted)
    found = Cache(paths.artifacts_dir()).find(key)
    assert found is not None
    assert found.digest == Digest.of(artifact.read_bytes())


def test_what_no_trusted_key_signed_is_refused(
    reference: Reference, artifact: Path, signers: Signers
) -> None:
    push(reference, artifact)
    with pytest.raises(UntrustedError, match="is not signed"):
        pulled(reference, signers.trusted)
    push(reference, artifact, None, signers.other)
    with pytest.raises(UntrustedError, match="not signed"):
        pulled(reference, signers.trusted)
    push(reference, artifact, None, signers.key)
    assert pulled(reference, signers.trusted)


def test_a_signature_of_another_namespace_or_a_changed_receipt_is_refused(signers: Signers) -> None:
    from bot_bottle.remote import signature

    signed = signature.sign(b"receipt", signers.key)
    assert signature.find_signer(b"receipt", signed, signers.trusted) == "ci@example.org"
    with pytest.raises(UntrustedError, match="not signed by a trusted key"):
        signature.find_signer(b"another", signed, signers.trusted)
    with pytest.raises(UntrustedError, match="not signed by a trusted key"):
        signature.find_signer(b"receipt", signed.replace(b"U", b"V", 1), signers.trusted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signature, "NAMESPACE", "git")
        signed = signature.sign(b"receipt", signers.key)
    with pytest.raises(UntrustedError, match="not signed by a trusted key"):
        signature.find_signer(b"receipt", signed, signers.trusted)


def test_a_receipt_of_other_bytes_another_machine_or_another_key_is_refused(artifact: Path, key: Key) -> None:
    from bot_bottle.smolmachine.format import read

    manifest, digest = read(artifact).manifest, Digest.of(b"artifact")
    made = Receipt.make("a:1", manifest, digest, 8, key, 1e9, 2e9)
    made.check(digest, 8, key)
    with pytest.raises(UntrustedError) as refused:
        made.check(Digest.of(b"older"), 8, key)
    assert "not of sha256" in refused.value.why
    with pytest.raises(UntrustedError) as refused:
        made.check(digest, 8, replace(key, config_digest=Digest.of(b"newer image")))
    assert "another key" in refused.value.why
    assert "config digest" in refused.value.why
    arm = Receipt.make("a:1", replace(manifest, platform="linux/arm64"), digest, 8, key, 1e9, 2e9)
    with pytest.raises(UntrustedError) as refused:
        arm.check(digest, 8, key)
    assert "for linux/arm64, and this machine runs linux/amd64" in refused.value.why


@pytest.mark.parametrize(
    "change",
    [
        {"form": 1},
        {"name": None},
        {"artifact": {}},
        {"artifact": []},
        {"artifact": {"digest": "sha256:x", "size": 1}},
        {"key": {"image_id": "x"}},
        {"created": "yesterday"},
        {"pushed": "2033-05-18"},
        {"scan": 0},
        {"versions": {"smolvm": 1}},
        {"platform": None},
    ],
    ids=str,
)
def test_a_malformed_receipt_is_refused(artifact: Path, key: Key, change: dict[str, object]) -> None:
    from bot_bottle.smolmachine.format import read

    made = Receipt.make("a:1", read(artifact).manifest, Digest.of(b"artifact"), 8, key, 1e9, 2e9)
    document = {**json.loads(made.raw), **change}
    with pytest.raises(UntrustedError):
        Receipt.parse(json.dumps(document).encode())
    for raw in (b"", b"[]", b"{", b"null"):
        with pytest.raises(UntrustedError):
            Receipt.parse(raw)


def test_an_artifact_that_is_not_what_its_receipt_says_is_refused(
    reference: Reference, artifact: Path, key: Key, signers: Signers
) -> None:
    push(reference, artifact, key, signers.key)  # the key of another image
    with pytest.raises(UntrustedError) as refused:
        pulled(reference, signers.trusted)
    assert "own image" in refused.value.why
    assert not Cache(paths.artifacts_dir()).list()


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each push be an hour after the one before."""
    clock = itertools.count(1_900_000_000, 3600)
    monkeypatch.setattr(remote, "time", SimpleNamespace(time=lambda: next(clock)))


@pytest.mark.usefixtures("hours")
def test_a_tag_that_goes_back_to_an_older_artifact_is_refused(
    reference: Reference, tmp_path: Path, guest: Guest, signers: Signers
) -> None:
    old = make(tmp_path, "old", guest, BEFORE)
    new = make(tmp_path, "new", guest, AFTER)
    push(reference, old, None, signers.key)
    index, media_type = read_manifest(Session(reference), "1")
    assert pulled(reference, signers.trusted).read_bytes() == old.read_bytes()
    push(reference, new, None, signers.key)
    for _ in range(2):
        assert pulled(reference, signers.trusted).read_bytes() == new.read_bytes()
    put_manifest(Session(reference), "1", index, media_type)
    with pytest.raises(UntrustedError, match="gone back to an older artifact") as refused:
        pulled(reference, signers.trusted)
    assert "pushed on 2030-03-17T17:46:40Z\nthis machine has seen " in refused.value.why
    assert "pushed on 2030-03-17T18:46:40Z" in refused.value.why
    assert "--allow-older" in refused.value.next_step
    by_digest = Reference.parse(f"{reference}@{json.loads(index)['manifests'][0]['digest']}")
    assert pulled(by_digest, signers.trusted).read_bytes() == old.read_bytes()
    for older in (True, False):  # it is the one that was seen last then
        assert pulled(reference, signers.trusted, allow_older=older).read_bytes() == old.read_bytes()


def test_an_artifact_of_another_name_is_refused_and_a_copy_is_not(
    reference: Reference, artifact: Path, signers: Signers
) -> None:
    push(reference, artifact, None, signers.key)
    index, media_type = read_manifest(Session(reference), "1")
    moved = reference.tagged("2")
    put_manifest(Session(moved), "2", index, media_type)
    with pytest.raises(UntrustedError, match="pushed to another name") as refused:
        pulled(moved, signers.trusted)
    assert f"says {reference.name}, and {moved.name} was asked for" in refused.value.why
    assert refused.value.next_step.endswith(f"--pushed-as {reference.name}")
    assert pulled(moved, signers.trusted, pushed_as=reference.name)
    assert pulled(Reference.parse(f"{moved}@{json.loads(index)['manifests'][0]['digest']}"), signers.trusted)
    assert pulled(moved)  # nobody is trusted, so that nothing is known of its name
    push(moved, artifact, None, signers.key)
    assert pulled(moved, signers.trusted)


@pytest.mark.usefixtures("hours")
def test_an_older_artifact_that_was_pushed_again_is_not_refused(
    reference: Reference, tmp_path: Path, guest: Guest, signers: Signers
) -> None:
    old, new = make(tmp_path, "old", guest, BEFORE), make(tmp_path, "new", guest, AFTER)
    for each in (old, new, old):
        push(reference, each, None, signers.key)
        assert pulled(reference, signers.trusted).read_bytes() == each.read_bytes()


def test_a_damaged_record_of_what_was_pulled_is_not_taken_for_none(
    reference: Reference, artifact: Path, signers: Signers
) -> None:
    push(reference, artifact, None, signers.key)
    pulled(reference, signers.trusted)
    [record] = paths.pulled_dir().glob("*.json")
    for damaged in (b"", b"[]", b'{"pushed": 1, "digest": "x"}', b"{" * 9000):
        record.write_bytes(damaged)
        with pytest.raises(UntrustedError, match="what was pulled before"):
            pulled(reference, signers.trusted)
    assert pulled(reference, signers.trusted, allow_older=True)
    assert pulled(reference, signers.trusted)


def test_unfinished_downloads_are_removed_unless_one_is_under_way(tmp_path: Path) -> None:
    from bot_bottle.remote.download import discard_downloads

    for name in "ab":
        (tmp_path / f"{name}.partial").write_bytes(b"x")
    with exclusive_lock(tmp_path / "b.lock", lambda: None):
        discard_downloads(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"b.partial", "b.lock"}
    discard_downloads(tmp_path)
    assert not list(tmp_path.iterdir())


def test_content_in_a_descriptor_is_used_only_if_it_is_sound(
    reference: Reference, relay: Relay, artifact: Path, signers: Signers
) -> None:
    push(reference, artifact, None, signers.key)

    def change(_method: str, _path: str, reply: Reply) -> Reply:
        return reply[0], reply[1], reply[2].replace(b'"data": "', b'"data": "AAAA')

    relay.change = change
    with pytest.raises(RegistryError, match="another manifest"):
        pulled(reference, signers.trusted)
    from bot_bottle.remote.manifests import Descriptor

    document = Descriptor("text/plain", Digest.of(b"content"), 7, data=b"content").document()
    assert Descriptor.parse(document).data == b"content"
    for wrong in ("", "AAAA", "Y29udGVuVA=="):
        assert Descriptor.parse({**document, "data": wrong}).data == b""
    with pytest.raises(RegistryError, match="malformed"):
        Descriptor.parse({**document, "data": 1})


def test_a_registry_that_sends_too_little_is_given_up(
    reference: Reference, tmp_path: Path, guest: Guest
) -> None:
    path = large(tmp_path, guest)
    push(reference, path)
    data = path.read_bytes()
    digest = Digest.of(data)
    session, folder = Session(reference), tmp_path / "downloads"
    wanted = Pace(0.0, 1 << 40)  # more than any registry sends
    with pytest.raises(SlowError), downloaded(session, digest, len(data), folder, pace=wanted):
        pytest.fail("it was not given up")
    assert not list(folder.iterdir())


def test_what_does_not_fit_is_not_begun(reference: Reference, relay: Relay, tmp_path: Path) -> None:
    large = 1 << 60
    with pytest.raises(DiskFullError, match="no room left for the artifact") as full:
        stack = downloaded(Session(reference), Digest.of(b"large"), large, tmp_path / "downloads")
        stack.__enter__()
    assert "1152921.5 TB are needed" in full.value.why
    assert not relay.seen
    assert not list((tmp_path / "downloads").iterdir())


def test_without_ssh_keygen_nothing_is_trusted(
    signers: Signers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bot_bottle.remote import signature

    signed = signature.sign(b"receipt", signers.key)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UntrustedError, match="cannot be checked") as refused:
        signature.find_signer(b"receipt", signed, signers.trusted)
    assert "openssh-client" in refused.value.next_step


def test_a_pull_waits_for_another_of_the_same_and_then_copies_what_that_has_brought(
    reference: Reference, relay: Relay, tmp_path: Path, guest: Guest
) -> None:
    path = large(tmp_path, guest)
    push(reference, path)
    lock = paths.downloads_dir() / f"{Digest.of(path.read_bytes()).hex}.lock"
    lock.parent.mkdir(parents=True)
    said, out = io.StringIO(), tmp_path / "second"
    session = Session(reference)
    second = partial(receive, session, remote.find(session, None), out, Progress("plain", said))
    thread = threading.Thread(target=second)
    with exclusive_lock(lock, lambda: None):
        thread.start()
        wait_until(lambda: "waiting for another bot-bottle that pulls" in said.getvalue())
        cache = Cache(paths.artifacts_dir())
        with cache.locked(key_of(path), source="", on_wait=lambda _: None) as slot:
            shutil.copy(path, slot.path)
            shutil.copy(list_path(path), list_path(slot.path))
            slot.publish()
        before = relay.sent
    thread.join(60)
    assert out.read_bytes() == path.read_bytes()
    assert relay.sent - before < path.stat().st_size // 10
