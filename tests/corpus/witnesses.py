"""Who turns an image's layers into a tree: we do, and umoci, docker and podman, who know nothing of us."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bot_bottle.image.archive import open_archive
from bot_bottle.rootfs.flatten import flatten
from tests.corpus import trees
from tests.corpus.differences import IN_CONTAINERD
from tests.corpus.trees import Tree
from tests.support.engines import Docker, Podman, call

Trees = dict[str, Tree]
Witness = Callable[[Path, Path], Trees]


class _Pieces(io.RawIOBase):
    """A stream of bytes as a file, so that no copy of it has to be kept."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def ours(archive: Path) -> Tree:
    """The tree that flattening gives, with nothing left out."""
    with open_archive(archive) as image:
        pieces = flatten(image, portable=False).chunks()
        with io.BufferedReader(_Pieces(pieces), 1 << 20) as file:
            return trees.of_tar(file)


def witnesses(docker: Docker, podman: Podman) -> dict[str, Witness]:
    """Every witness by name: a function that is given an archive and a folder to work in.

    It gives the trees that it sees, by the way in which it shows them.
    """
    return {"umoci": _umoci, "docker": partial(_docker, docker), "podman": partial(_podman, podman)}


def _umoci(archive: Path, folder: Path) -> Trees:
    """Unpack with umoci."""
    layout, bundle = folder / "umoci", folder / "umoci-bundle"
    with emptied(layout, bundle):
        _copy(_decompressed(archive, folder), f"oci:{layout}:latest")
        call(["umoci", "unpack", "--image", f"{layout}:latest", str(bundle)], dict(os.environ))
        return {"umoci unpack": trees.of_folder(bundle / "rootfs")}


def _docker(docker: Docker, archive: Path, folder: Path) -> Trees:
    """Load into docker, and export a container that never ran."""
    saved = folder / "for-docker"
    with emptied(saved), ExitStack() as stack:
        _copy(_decompressed(archive, folder), f"docker-archive:{saved}:corpus:latest")
        said = docker.docker("load", "--quiet", "--input", str(saved)).decode()
        stack.callback(docker.docker, "rmi", "--force", "corpus:latest")
        # where containerd keeps the images, that layers cannot be unpacked is not a failure of `docker load`
        assert "Error unpacking image" not in said, said
        container = docker.docker("create", "--network=none", "corpus:latest", "/x").decode().strip()
        stack.callback(docker.docker, "rm", container)
        shown_by = f"docker export{IN_CONTAINERD if docker.containerd_store else ''}"
        return {shown_by: _exported(["docker", "export", container], docker.env)}


def _podman(podman: Podman, archive: Path, folder: Path) -> Trees:
    """Pull into podman's storage; look where it mounts the image, and export a container that never ran."""
    with ExitStack() as stack:
        image = podman.podman("pull", "--quiet", _source(archive)).decode().strip()
        stack.callback(podman.podman, "rmi", "--force", image)
        mounted = podman.podman("image", "mount", image).decode().strip()
        stack.callback(podman.podman, "image", "unmount", image)
        container = podman.podman("create", "--network=none", image, "/x").decode().strip()
        stack.callback(podman.podman, "rm", container)
        return {
            "podman image mount": trees.of_folder(Path(mounted)),
            "podman export": _exported(["podman", "export", container], podman.env),
        }


def _exported(argv: list[str], env: dict[str, str]) -> Tree:
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tree = trees.of_tar(process.stdout)
        process.stdout.read()
    assert process.returncode == 0, argv
    return tree


@contextmanager
def emptied(*paths: Path) -> Iterator[None]:
    """Remove what was made at these paths when the block ends: some of it is large."""
    try:
        yield
    finally:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _source(archive: Path) -> str:
    """Name an archive as skopeo and podman do."""
    if archive.is_dir():
        return f"oci:{archive}"
    with tarfile.open(archive) as tar:
        return f"{'docker-archive' if 'manifest.json' in tar.getnames() else 'oci-archive'}:{archive}"


def _decompressed(archive: Path, folder: Path) -> str:
    """Let skopeo take the compression from layers that umoci 0.4 and docker 20.10 do not know."""
    if not archive.is_dir() or not any(b"+zstd" in path.read_bytes() for path in _documents(archive)):
        return _source(archive)
    plain = folder / "plain"
    _copy(_source(archive), f"dir:{plain}", "--dest-decompress")
    return f"dir:{plain}"


def _documents(layout: Path) -> list[Path]:
    return [path for path in (layout / "blobs" / "sha256").iterdir() if path.stat().st_size < 5000]


def _copy(source: str, target: str, *options: str) -> None:
    call(["skopeo", "copy", "--quiet", "--insecure-policy", *options, source, target], dict(os.environ))
