"""Blobs by digest: only what has been verified gets its name."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from bot_bottle.image.layers import Blob
from bot_bottle.image.spec import Digest
from bot_bottle.registry.store import BlobStore, DigestMismatch, TooManyUploads, UnknownBlob


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store", max_uploads=3)


def files(store: BlobStore, tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_is_written_is_there_under_its_digest(store: BlobStore, algorithm: str) -> None:
    digest = Digest.of(b"hello world", algorithm)
    with store.upload() as upload:
        upload.write(b"hello ")
        assert store.size(digest) is None
        upload.write(b"world")
        upload.commit(digest)
    assert store.size(digest) == 11
    assert store.read(digest) == b"hello world"


def test_a_wrong_digest_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    upload = store.upload()
    upload.write(b"something")
    with pytest.raises(DigestMismatch):
        upload.commit(Digest.of(b"something else"))
    assert files(store, tmp_path) == []
    assert store.find_upload(upload.id) is None


def test_leaving_without_commit_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    with store.upload() as upload:
        upload.write(b"half")
    assert files(store, tmp_path) == []


def test_an_empty_blob_is_stored_and_read(store: BlobStore) -> None:
    with store.upload() as upload:
        upload.commit(Digest.of(b""))
    assert store.read(Digest.of(b"")) == b""


def test_uploads_are_bounded_and_idle_ones_make_room(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store", max_uploads=2, upload_seconds=60)
    first, second = store.upload(), store.upload()
    with pytest.raises(TooManyUploads):
        store.upload()
    first.busy = True  # a request is at it, so it is not idle however long it takes
    for upload in (first, second):
        upload._touched -= 61
    store.upload()
    assert store.find_upload(first.id) is first


def test_a_lent_range_is_served_without_a_copy(store: BlobStore, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(b"headLAYERtail")
    digest = Digest.of(b"LAYER")
    with archive.open("rb") as file:
        store.lend(digest, Blob(file.fileno(), 4, 5))
        assert store.read(digest) == b"LAYER"
        assert files(store, tmp_path) == []
        store.remove(digest)
        with pytest.raises(UnknownBlob):
            store.read(digest)
    assert archive.exists()


def test_a_blob_that_is_open_outlives_its_removal(store: BlobStore) -> None:
    digest = store.put(b"data")
    with store.open(digest) as blob:
        store.remove(digest)
        assert blob.pread(4, 0) == b"data"
    assert store.size(digest) is None


def test_a_failed_write_adds_nothing_and_can_be_repeated(store: BlobStore, tmp_path: Path) -> None:

    upload = store.upload()
    upload.write(b"x" * 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            upload.write(b"y" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert upload.size == 1000
    upload.write(b"z")
    digest = Digest.of(b"x" * 1000 + b"z")
    upload.commit(digest)
    assert store.size(digest) == 1001


def test_closing_cancels_what_is_under_way(store: BlobStore, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        store.upload().write(b"half")
    store.close()
    assert files(store, tmp_path) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
