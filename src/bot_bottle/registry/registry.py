"""The interface of both forms of the ephemeral registry."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from msgspec import Struct

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.push_names import named_for_push
from bot_bottle.errors import ImageError, RegistryError
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import Image, spool
from bot_bottle.image.spec import Digest
from bot_bottle.registry.client import Client
from bot_bottle.registry.image import Content, open_content
from bot_bottle.registry.routes import is_name


class Reference(Struct, frozen=True):
    """Where an image can be pulled: `127.0.0.1:PORT/PREFIX/NAME@sha256:...`.

    The address is never `localhost`, which some guests resolve to ::1; the digest ensures that what is pulled
    is what was pushed.
    """

    address: str
    repository: str
    digest: Digest

    def __str__(self) -> str:
        return f"{self.address}/{self.repository}@{self.digest}"


class Registry:
    """A running registry. Made by `ephemeral_registry`.

    `port` and `address` (`127.0.0.1:PORT`) are where it listens; every repository is under `prefix`.
    """

    def __init__(
        self, port: int, prefix: str, folder: Path, run: RunDir, stack: ExitStack, *, push: bool
    ) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.prefix = prefix
        self._folder = folder
        self._run = run
        self._stack = stack  # closes the files that are served
        self._push = push

    def target(self, name: str, tag: str = "latest") -> str:
        """Return the reference to push an image to. Raises RegistryError for a read-only registry."""
        if not self._push:
            raise RegistryError("the registry is read-only", next_step="open it with push=True")
        return f"{self.address}/{self._repository(name)}:{tag}"

    def resolve(self, name: str, tag: str = "latest") -> Reference:
        """Return the reference by digest of a pushed image. Raises RegistryError when there is none."""
        repository = self._repository(name)
        return Reference(self.address, repository, Client(self.port).resolve(repository, tag))

    def load(self, path: Path, name: str = "image", image_name: str | None = None) -> Reference:
        """Serve the image in an archive or OCI layout, in the repository `name`; return its reference.

        `image_name` chooses among several images. The file must not change while it is served. Raises
        ImageError, RegistryError.
        """
        return self._load(path, name, image_name, verify=True)

    def load_image(
        self,
        engine: Engine,
        ref: str,
        name: str = "image",
        on_bytes: Callable[[int], None] = lambda _count: None,
    ) -> Reference:
        """Serve an image of the engine: saved once to a file, and served from there; return its reference.

        `on_bytes` is called with the size of each piece saved. Raises EngineError, ImageError, DiskFullError.
        """
        folder = Path(tempfile.mkdtemp(prefix="image-", dir=self._folder))
        path = folder / "image.tar"
        engine.write_archive(ref, lambda stream: spool(stream, path, on_bytes))
        return self._load(path, name, None, verify=False)  # docker and podman have verified it

    def push_image(
        self,
        engine: Engine,
        ref: str,
        name: str = "image",
        on_line: Callable[[str], None] = lambda _line: None,
    ) -> Reference:
        """Push an image with the engine: slower than `load_image`, but only missing layers are sent.

        Afterwards the engine's image has the names that it had before. Raises EngineError, RegistryError.
        """
        target = self.target(name)
        second = f"{self.address}/{self.prefix}/{secrets.token_hex(8)}:second"
        with named_for_push(engine, ref, target, second, self._run):
            engine.push(target, on_line)
        return self.resolve(name)

    def open_image(self, reference: Reference) -> AbstractContextManager[Image]:
        """Open an image in the registry; its layers can be read in the block.

        Raises RegistryError where the registry is not in this process, ImageError.
        """
        raise RegistryError("images in the registry container can only be pulled", why=str(reference))

    def _load(self, path: Path, name: str, image_name: str | None, *, verify: bool) -> Reference:
        repository = self._repository(name)
        content = self._stack.enter_context(open_content(path, image_name, verify=verify))
        self._take(repository, content)
        return Reference(self.address, repository, content.digest)

    def _take(self, repository: str, content: Content) -> None:
        Client(self.port).push(repository, content)

    def _repository(self, name: str) -> str:
        repository = f"{self.prefix}/{name}"
        if not is_name(repository):
            raise ImageError(
                f"invalid repository name: {name[:200]!r}", next_step="use a-z, 0-9, . _ - and /"
            )
        return repository
