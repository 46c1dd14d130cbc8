"""The registry in this process: an event loop on a thread, stopped with the block or the process."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from bot_bottle.errors import RegistryError
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.image.archive import Image, image_found
from bot_bottle.image.index import find_image
from bot_bottle.image.layers import Blob
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.registry.blob_cache import BlobCache
from bot_bottle.registry.image import Content
from bot_bottle.registry.registry import Reference, Registry
from bot_bottle.registry.repositories import Manifest, Repositories, Service
from bot_bottle.registry.server import serve
from bot_bottle.registry.store import BlobStore, UnknownBlob

T = TypeVar("T")

_START_SECONDS = 10.0
_STOP_SECONDS = 10.0


@contextmanager
def embedded(run: RunDir, *, push: bool = False, keep: Path | None = None) -> Iterator[Registry]:
    """Serve from this process until the block ends. Its files are in the run folder. Raises RegistryError."""
    with ExitStack() as stack:
        with defer_signals():
            folder = Path(tempfile.mkdtemp(prefix="registry-", dir=run.path))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            listening = stack.enter_context(_bind())
            prefix = secrets.token_hex(16)
            store = BlobStore(folder, BlobCache(keep) if keep else None)
            service = Service(Repositories(store), prefix, writable=push)
            held = stack.enter_context(ExitStack())  # archives, closed when nothing is served any more
            thread = _ServerThread(service, listening)
            stack.callback(thread.stop)
            thread.start()
        yield _Embedded(listening.getsockname()[1], folder, run, held, thread, service)


class _Embedded(Registry):
    def __init__(
        self,
        port: int,
        folder: Path,
        run: RunDir,
        held: ExitStack,
        thread: _ServerThread,
        service: Service,
    ) -> None:
        super().__init__(port, service.prefix, folder, run, held, push=service.writable)
        self._thread = thread
        self._repositories = service.repositories

    @contextmanager
    def open_image(self, reference: Reference) -> Iterator[Image]:
        """Open an image in the registry; its layers can be read in the block.

        Of an index, it is this machine's platform.
        """
        wanted = Platform.of_this_machine()
        with ExitStack() as stack:
            find = partial(_find, self._repositories.store, stack)
            found = find_image(find, reference.digest, wanted, "what was pushed")
            yield image_found(found, wanted)

    def _take(self, repository: str, content: Content) -> None:
        store = self._repositories.store
        store.put(content.config, content.config_digest.algorithm)
        store.put(content.manifest)
        for digest, blob in content.layers:
            store.lend(digest, blob)
        self._thread.call(lambda: self._register(repository, content))

    def _register(self, name: str, content: Content) -> None:
        repository = self._repositories.make(name)
        for digest in (content.config_digest, *(digest for digest, _ in content.layers)):
            repository.add_blob(digest)
        repository.add(Manifest(content.digest, content.media_type, len(content.manifest)))


def _find(store: BlobStore, stack: ExitStack, digest: Digest) -> Blob | None:
    """Open a blob of the store until `stack` ends; None if it is not there."""
    try:
        return stack.enter_context(store.open(digest))
    except UnknownBlob:
        return None


class _ServerThread:
    """The event loop's thread. Only this thread changes what the registry contains."""

    def __init__(self, service: Service, listening: socket.socket) -> None:
        self._service = service
        self._listening = listening
        self._loop = asyncio.new_event_loop()
        self._until = asyncio.Event()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait until the registry answers. Raises RegistryError."""
        self._thread.start()
        if not self._ready.wait(_START_SECONDS):
            raise RegistryError(f"the registry did not start within {_START_SECONDS:g} s")
        if self._failure is not None:
            raise RegistryError("the registry could not start", why=str(self._failure)) from self._failure

    def call(self, work: Callable[[], T]) -> T:
        """Call a function on the thread, and return its result."""

        async def on_loop() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(_START_SECONDS)

    def stop(self) -> None:
        """Stop the thread, with all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._until.set)
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(serve(self._service, self._listening, self._until, self._ready.set))
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()


@contextmanager
def _bind() -> Iterator[socket.socket]:
    """Yield a listening socket on loopback, at a free port that the system chooses."""
    try:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
    except OSError as error:
        raise RegistryError("cannot listen on 127.0.0.1", why=error.strerror or str(error)) from error
    with listening:
        yield listening
