"""Verification of an artifact, alone or against its image."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import ArtifactError, ImageError
from bot_bottle.image.archive import Image
from bot_bottle.rootfs.flatten import flatten
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.format import Artifact
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.verify.compare import compare_config, compare_hard_links, compare_trees
from bot_bottle.verify.entries import read_entries
from bot_bottle.verify.findings import Finding, Findings
from bot_bottle.verify.table import Tree, tables

_ENTRY_LIMIT = 2_000_000  # smolvm unpacks no more


class Report(Struct, frozen=True):
    """The result of a verification. Without an `image_id` the artifact was checked alone."""

    artifact: Artifact
    image_id: str | None
    entries: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing unexpected was found."""
        return all(finding.expected for finding in self.findings)


def verify(
    path: Path, image: Image | None, scratch: Path, on_bytes: Callable[[int], None] = lambda _count: None
) -> Report:
    """Verify every byte of an artifact and, with an image, compare their files and settings.

    The image's tree is the flattened one with nothing left out or rewritten. Memory does not grow with the
    artifact: lists of files are stored in `scratch`. `on_bytes` is called with the number of bytes of the
    artifact that were read. Raises ArtifactError and ImageError for damaged files.
    """
    found = Findings()
    with tables(scratch) as connection:
        tree = Tree(
            connection,
            "artifact",
            lambda why, path: found.unexpected("smolvm would not unpack it", why, path),
        )
        artifact = _read_artifact(path, connection, tree, on_bytes)
        if image is not None:
            whole = Tree(connection, "image", lambda _why, _path: None)
            _fill(connection, whole, flatten(image, portable=False).chunks(), "the image's tree")
            compare_config(str(image.image_id), image.config, artifact.manifest, found)
            compare_trees(whole, tree, found)
            compare_hard_links(connection, whole, tree, found)
    return Report(artifact, str(image.image_id) if image else None, tree.count, found.all())


def _read_artifact(
    path: Path, connection: sqlite3.Connection, tree: Tree, on_bytes: Callable[[int], None]
) -> Artifact:
    layers = artifact_format.read(path).manifest.assets.layers
    if len(layers) != 1:
        raise ArtifactError(
            f"the artifact has {len(layers)} layers: {path}",
            why="only an artifact with a single layer, as packers write it, can be verified",
            next_step="make it again with `bottle pack`",
        )

    def read_layer(name: str, pieces: Iterator[bytes]) -> None:
        try:
            _fill(connection, tree, pieces, name)
        except ImageError as error:
            raise ArtifactError(error.message, why=error.why, next_step="make it again") from error

    return artifact_format.verify(path, on_bytes, read_layer)


def _fill(connection: sqlite3.Connection, tree: Tree, pieces: Iterator[bytes], what: str) -> None:
    connection.execute("BEGIN")
    for entry in read_entries(PieceStream(pieces), what):
        tree.add(entry)
        if tree.count > _ENTRY_LIMIT:
            raise ArtifactError(
                "the artifact has too many files", why=f"smolvm unpacks {_ENTRY_LIMIT} at most"
            )
    connection.execute("COMMIT")
