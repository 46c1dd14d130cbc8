"""Artifacts pushed to a registry and pulled from it, with their receipts, signatures and part lists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.cache.entry import list_path
from bot_bottle.cache.key import Key
from bot_bottle.errors import ArtifactError, UntrustedError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.image.spec import Digest
from bot_bottle.pack.chunk_index import LIST_LIMIT, Parts
from bot_bottle.remote import manifests, receipt, signature
from bot_bottle.remote.download import Moved, Pace, Piece, downloaded
from bot_bottle.remote.manifests import Descriptor
from bot_bottle.remote.receipt import Receipt
from bot_bottle.remote.session import Session, read_blob
from bot_bottle.remote.upload import digest_of, push_file
from bot_bottle.smolmachine import format as artifact_format

RECEIPT_TYPE = "application/vnd.bot-bottle.receipt.v1+json"
_SIGNATURE_TYPE = "application/vnd.bot-bottle.receipt.v1.sshsig"
_PARTS_TYPE = "application/vnd.bot-bottle.parts.v1"

_SHORTEST = 256 << 10  # bytes between two ranges that are worth a request of their own
_LARGEST = 128 << 30  # bytes; smolvm unpacks no more


class Pushed(Struct, frozen=True):
    """An artifact that was pushed: its manifest's digest and its own, its size, and how much was sent."""

    manifest: Digest
    digest: Digest
    size: int
    sent: int


class Found(Struct, frozen=True):
    """An artifact in a registry. `receipt` is one that is about it, `signer` who has signed that, or "".

    `parts` is the list of its parts, if there is one.
    """

    manifest: Descriptor
    blob: Descriptor
    receipt: Receipt | None
    signer: str
    parts: Descriptor | None = None

    @property
    def pushed(self) -> str:
        """When it was pushed, as its receipt says; "" without one."""
        return self.receipt.pushed if self.receipt else ""


def push(
    session: Session,
    path: Path,
    key: Key | None,
    created: float,
    *,
    signing_key: Path | None = None,
    scan: str = receipt.NOT_SCANNED,
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> Pushed:
    """Push an artifact with its receipt to the session's reference. `created` is in seconds since 1970.

    `scan` is what a search of it for secrets has found.

    Raises ArtifactError for a damaged file, RegistryError, SpecError for a key that cannot sign.
    """
    artifact = artifact_format.checksum(path)
    with path.open("rb") as file:
        fd = file.fileno()
        digest, size = digest_of(fd), os.fstat(fd).st_size
        manifest = artifact.manifest
        name = session.reference.name
        described = Receipt.make(name, manifest, digest, size, key, created, time.time(), scan)
        signed = signature.sign(described.raw, signing_key) if signing_key else b""
        sent = push_file(session, fd, digest, size, on_bytes)
        config = os.pread(fd, artifact.footer.manifest_size, artifact.footer.assets_size)
    blob = Descriptor(manifests.ARTIFACT_TYPE, digest, size)
    made = manifests.push_artifact(session, config, blob, manifest.mode, described.platform)
    layers = [(RECEIPT_TYPE, described.raw)]
    layers += [(_SIGNATURE_TYPE, signed)] if signed else []
    layers += [(_PARTS_TYPE, listed)] if (listed := _part_list(path)) else []
    manifests.attach(session, made, RECEIPT_TYPE, layers)
    return Pushed(made.digest, digest, size, sent)


def find(session: Session, trusted: Path | None, key: Key | None = None, *, name: str = "") -> Found:
    """Find an artifact, and a receipt for it: one that a signer of the file `trusted` has signed, if given.

    Of several signed ones it is that of the last push; with `name`, to that repository and tag. With `key` it
    is any that is for it. Raises NotThereError, RegistryError, ArtifactError, UntrustedError.
    """
    manifest, blob = manifests.find_artifact(session)
    if blob.size > _LARGEST or blob.digest.algorithm != "sha256":
        raise ArtifactError(
            f"{session.reference} cannot be used",
            why=f"it has {blob.size} bytes, and the digest {blob.digest}; {_LARGEST} bytes with a digest of "
            "sha256 are the most that smolvm takes",
        )
    refused: UntrustedError | None = None
    last: Found | None = None
    for layers in manifests.attached(session, manifest, RECEIPT_TYPE):
        try:
            found = _checked(session, manifest, blob, layers, trusted, key)
            if name and found.signer and found.receipt is not None:
                found.receipt.check_name(name)
        except UntrustedError as error:
            refused = refused or error
            continue
        last = found if last is None or last.pushed < found.pushed else last
        if key is not None or trusted is None:
            break
    if last is not None:
        return last
    if refused is not None and (trusted or key):
        raise refused
    if trusted or key:
        raise UntrustedError(
            f"{session.reference} is not signed" if trusted else f"{session.reference} has no receipt",
            why="nothing in the registry says who has made it" if trusted else "it may be of any key",
            next_step="push it with bottle push --sign" if trusted else "push it with bottle push",
        )
    return Found(manifest, blob, None, "")


def _checked(
    session: Session,
    manifest: Descriptor,
    blob: Descriptor,
    layers: list[Descriptor],
    trusted: Path | None,
    key: Key | None,
) -> Found:
    limits = {RECEIPT_TYPE: receipt.LIMIT, _SIGNATURE_TYPE: signature.LIMIT}
    data = {
        each.media_type: each.data or read_blob(session, each.digest, limits[each.media_type])
        for each in layers
        if each.media_type in limits
    }
    parts = next((each for each in layers if each.media_type == _PARTS_TYPE), None)
    raw = data.get(RECEIPT_TYPE, b"")
    signer = ""
    if trusted is not None:
        if _SIGNATURE_TYPE not in data:
            raise UntrustedError(
                f"{session.reference} is not signed", next_step="push it with bottle push --sign"
            )
        signer = signature.find_signer(raw, data[_SIGNATURE_TYPE], trusted)
    found = Receipt.parse(raw)
    found.check(blob.digest, blob.size, key)
    return Found(manifest, blob, found, signer, parts)


def read_parts(session: Session, found: Found) -> bytes:
    """Return the list of an artifact's parts, or b"" where there is none. Raises RegistryError."""
    if found.parts is None:
        return b""
    return found.parts.data or read_blob(session, found.parts.digest, LIST_LIMIT)


@contextmanager
def pulled(
    session: Session,
    found: Found,
    listed: bytes,
    *,
    pace: Pace | None = None,
    on_bytes: Callable[[int], None] = lambda _count: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, Moved]]:
    """Yield the file of an artifact, whose every byte was checked, to be moved to its place in the block.

    Parts of artifacts that are in the cache are copied, if they are `listed`. `pace` and `on_wait` are as
    `downloaded` has them. Raises RegistryError, ArtifactError, UntrustedError, DiskFullError.
    """
    with ExitStack() as stack:

        def pieces() -> list[Piece]:
            parts = stack.enter_context(Parts(paths.artifacts_dir()))
            return list(_pieces(parts, listed, found.blob.size))

        path, moved = stack.enter_context(
            downloaded(
                session,
                found.blob.digest,
                found.blob.size,
                paths.downloads_dir(),
                pieces=pieces,
                pace=pace,
                on_bytes=on_bytes,
                on_wait=on_wait,
            )
        )
        artifact = artifact_format.checksum(path)
        if found.receipt is not None:
            found.receipt.check_manifest(artifact.manifest)
        yield path, moved


def _pieces(parts: Parts, listed: bytes, whole: int) -> Iterator[Piece]:
    """Yield the parts that are here already, except for a few bytes between others that are not."""
    run: list[Piece] = []
    for offset, size, read in parts.find_listed(listed, whole):
        if run and offset != run[-1].stop:
            yield from _worth(run)
            run = []
        run.append(Piece(offset, offset + size, read))
    yield from _worth(run)


def _worth(run: list[Piece]) -> list[Piece]:
    return run if run and run[-1].stop - run[0].start >= _SHORTEST else []


def _part_list(path: Path) -> bytes:
    try:
        return read_regular(list_path(path), LIST_LIMIT)[0]
    except OSError:
        return b""
