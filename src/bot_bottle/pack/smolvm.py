"""smolvm's own packer, driven on the host that can boot its machine: from an archive, or from a registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from bot_bottle.errors import BootError, SmolvmError
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import as_tar
from bot_bottle.image.spec import Digest
from bot_bottle.pack.artifact import pack_smolvm
from bot_bottle.registry.registry import Reference
from bot_bottle.vm.capabilities import probe_kvm
from bot_bottle.vm.emulated.host import emulated_host
from bot_bottle.vm.host import Accel, Host, NativeHost, choose_accel
from bot_bottle.vm.smolvm import GUEST_ENDED, find_smolvm

_TIMEOUT = 3600.0  # seconds
_MEMORY_MIB = 12 * 1024  # smolvm packs in a machine of 8 GiB and four processors, whatever it is told
_PROCESSORS = 2
_TRIES = 3  # on emulated hosts, where that machine often does not come up

# what smolvm says of a machine that did not
_NOT_UP = (GUEST_ENDED, "agent did not become ready")

# Its machine pulls the image, and may not reach our loopback unless it is told so. Of the host itself smolvm
# asks the registry once, which must not go through a proxy: the reference holds a secret.
_REGISTRY = {"SMOLVM_ALLOW_HOST_LOOPBACK": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


class SmolvmPacker:
    """Has smolvm make artifacts. What is temporary is in `run`."""

    def __init__(self, run: RunDir, progress: Progress, accel: Accel) -> None:
        self._run = run
        self._progress = progress
        self._accel = accel

    @property
    def takes_archives(self) -> bool:
        """Whether the smolvm that would be used takes an archive, or only a registry reference."""
        return self._emulated or find_smolvm(self._progress).packs_archives()

    @cached_property
    def _emulated(self) -> bool:
        return choose_accel(self._accel, probe_kvm()) == "emulated"

    def from_archive(self, archive: Path, out: Path) -> Digest:
        """Make an artifact of the image in an archive or OCI layout."""
        archive = as_tar(archive, self._run.folder("archive") / "image.tar")
        return self._pack(archive, out, {}, None)

    def from_registry(self, reference: Reference, port: int, out: Path) -> Digest:
        """Make an artifact of an image that is served on our loopback, at `port`."""
        return self._pack(str(reference), out, _REGISTRY, port)

    def _pack(self, image: Path | str, out: Path, env: Mapping[str, str], port: int | None) -> Digest:
        left = _TRIES
        while True:
            left -= 1
            try:
                return self._try(image, out, env, port)
            except (BootError, SmolvmError) as error:
                if not (left and self._emulated and _may_be_luck(error)):
                    raise
                self._progress.note(f"{error.message}: once more, on another emulated host")

    def _try(self, image: Path | str, out: Path, env: Mapping[str, str], port: int | None) -> Digest:
        exchange = self._run.folder("exchange")
        with self._host(exchange, port) as host, self._progress.stage("pack") as stage:
            stage.say("smolvm pack create")
            places = {str(image.absolute()): host.path_of(image)} if isinstance(image, Path) else {}
            inside = "/exchange" if host.kind == "emulated" else str(exchange)
            # the archive may be readable by its owner alone; an emulated host is a wall of its own
            more = {"SMOLVM_VM_UID_DROP": "off"} if host.kind == "emulated" else {}

            def run(args: Sequence[str]) -> None:
                told = [places.get(arg, arg.replace(str(exchange), inside)) for arg in args]
                host.call(told, timeout=_TIMEOUT, env={**env, **more})

            made = exchange / "made.smolmachine"
            packed = pack_smolvm(run, image, made)
            made.replace(out)
            stage.conclude("by smolvm pack create")
        return packed.digest

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


def _may_be_luck(error: BootError | SmolvmError) -> bool:
    return isinstance(error, BootError) or any(words in error.why for words in _NOT_UP)
