"""smolvm's own packer, run on the host that can boot its machine: from an archive, or from a registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.engine.engine import Engine
from bot_bottle.errors import BootError, SmolvmError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import as_tar, open_archive
from bot_bottle.pack.artifact import PackResult, pack_smolvm
from bot_bottle.pack.export import check_image_id
from bot_bottle.vm.accel import Accel, choose_accel
from bot_bottle.vm.capabilities import probe_kvm
from bot_bottle.vm.emulated.host import emulated_host
from bot_bottle.vm.host import Host, NativeHost
from bot_bottle.vm.smolvm import GUEST_ENDED, GUEST_GONE, find_smolvm

if TYPE_CHECKING:  # an archive needs no registry
    from bot_bottle.registry.registry import Reference, Registry

_REPOSITORY = "bot-bottle"
_TIMEOUT = 3600.0  # seconds
_MEMORY_MIB = 12 * 1024  # smolvm always packs in a machine of 8 GiB and four processors
_PROCESSORS = 2
_TRIES = 3  # on emulated hosts, where that machine often does not start

# smolvm's messages about a machine that did not, or that ended
_LOST = (GUEST_ENDED, "agent did not become ready", *GUEST_GONE)

# Its machine pulls the image, and may only reach our loopback with this variable. On the host itself smolvm
# sends one request to the registry, which must not go through a proxy: the reference contains a secret.
_REGISTRY = {"SMOLVM_ALLOW_HOST_LOOPBACK": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


class SmolvmPacker:
    """Makes artifacts with smolvm. Temporary files are in `run`."""

    def __init__(self, run: RunDir, progress: Progress, accel: Accel) -> None:
        self._run = run
        self._progress = progress
        self._accel = accel

    @property
    def takes_archives(self) -> bool:
        """Whether smolvm accepts an archive, or only a registry reference."""
        return self._emulated or find_smolvm(self._progress).packs_archives()

    @cached_property
    def _emulated(self) -> bool:
        return choose_accel(self._accel, probe_kvm()) != "kvm"  # smolvm itself needs a KVM

    def from_archive(self, archive: Path, image_id: str, out: Path) -> PackResult:
        """Make an artifact from the image in an archive or OCI layout, which must have this id."""
        with open_archive(archive) as image:
            check_image_id(image, image_id)
        archive = as_tar(archive, self._run.folder("archive") / "image.tar")
        return self._pack(archive, out, {}, None)

    def from_served_archive(self, archive: Path, name: str | None, out: Path) -> PackResult:
        """Make an artifact from an image in an archive, which smolvm pulls from a registry.

        `name` chooses among the images of the archive (None: its only one).
        """
        with self._registry(push=False) as registry:
            return self._pull(registry, registry.load(archive, _REPOSITORY, name), out)

    def from_served_image(self, engine: Engine, image_id: str, out: Path, *, push: bool) -> PackResult:
        """Make an artifact from an engine's image, which smolvm pulls from a registry.

        With `push` the engine pushes it there, else an archive of it is loaded.
        """
        with self._registry(push=push) as registry:
            if push:
                with self._progress.stage("push") as stage:
                    reference = registry.push_image(engine, image_id, _REPOSITORY, stage.say)
            else:
                with self._progress.stage("export", engine.size(image_id) or None) as stage:
                    reference = registry.load_image(engine, image_id, _REPOSITORY, stage.advance)
                    stage.conclude(f"from {engine.name} into the registry")
            return self._pull(registry, reference, out)

    def _registry(self, *, push: bool) -> AbstractContextManager[Registry]:
        from bot_bottle.registry.ephemeral import ephemeral_registry

        return ephemeral_registry(push=push, keep=paths.layers_dir() if push else None, run=self._run)

    def _pull(self, registry: Registry, reference: Reference, out: Path) -> PackResult:
        return self._pack(str(reference), out, _REGISTRY, registry.port)

    def _pack(self, image: Path | str, out: Path, env: Mapping[str, str], port: int | None) -> PackResult:
        left = _TRIES
        while True:
            left -= 1
            try:
                return self._try(image, out, env, port)
            except (BootError, SmolvmError) as error:
                if not (left and self._emulated and may_be_luck(error)):
                    raise
                self._progress.note(f"{error.message}; retrying on a new emulated host")

    def _try(self, image: Path | str, out: Path, env: Mapping[str, str], port: int | None) -> PackResult:
        exchange = self._run.folder("exchange")
        with self._host(exchange, port) as host, self._progress.stage("pack") as stage:
            stage.say("smolvm pack create")
            places = {str(image.absolute()): host.path_of(image)} if isinstance(image, Path) else {}
            inside = "/exchange" if host.kind == "nested" else str(exchange)
            # the archive may be readable by its owner only, and an emulated host isolates smolvm by itself
            more = {"SMOLVM_VM_UID_DROP": "off"} if host.kind == "nested" else {}

            def run(args: Sequence[str]) -> None:
                argv = [places.get(arg, arg.replace(str(exchange), inside)) for arg in args]
                host.call(argv, timeout=_TIMEOUT, env={**env, **more})

            made = exchange / "made.smolmachine"
            packed = pack_smolvm(run, image, made)
            made.replace(out)
            stage.conclude("by smolvm pack create")
        return packed

    @contextmanager
    def _host(self, exchange: Path, port: int | None) -> Iterator[Host]:
        if not self._emulated:
            yield NativeHost(find_smolvm(self._progress))
        else:
            with emulated_host(
                self._run,
                self._progress,
                memory_mib=_MEMORY_MIB,
                exchange=exchange,
                port=port,
                processors=_PROCESSORS,
            ) as host:
                yield host


def may_be_luck(error: BootError | SmolvmError) -> bool:
    """Return whether an emulated host, or the machine in it, was lost: the next one may last."""
    return isinstance(error, BootError) or any(words in error.why for words in _LOST)
