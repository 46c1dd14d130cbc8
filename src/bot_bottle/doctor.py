"""Would `bottle run` work here? Each thing it needs is looked at, and what is wrong has a next step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bot_bottle import paths, process
from bot_bottle.errors import AccelError, BottleError
from bot_bottle.image.engine import find_engine
from bot_bottle.process import CommandFailed
from bot_bottle.progress import Progress, human_bytes
from bot_bottle.smolmachine.cache import Cache
from bot_bottle.vm.emulated import find_qemu
from bot_bottle.vm.host import Accel, choose_accel
from bot_bottle.vm.kernel import busybox
from bot_bottle.vm.kvm import probe_kvm
from bot_bottle.vm.smolvm import find_smolvm

Mark = Literal["good", "poor", "bad"]

_DISK_NEEDED = 5 << 30
_MEMORY_NEEDED = 3 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `poor` works, but not well; `bad` keeps `bottle run` from working."""

    name: str
    mark: Mark
    finding: str
    next_step: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return asdict(self)


def examine(*, engine: str | None = None, accel: Accel = "auto") -> Iterator[Check]:
    """Look at everything `bottle run` needs, in the order in which it needs it."""
    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("engine", lambda: _engine(engine)),
        ("smolvm", _smolvm),
        ("kvm", lambda: _kvm(accel)),
        ("emulation", lambda: _emulation(accel)),
        ("memory", _memory),
        ("disk", _disk),
        ("cache", _cache),
    )
    for name, check in checks:
        try:
            yield check()
        except BottleError as error:
            words = error.why.splitlines()
            yield Check(name, "bad", ": ".join([error.message, *words[:1]]), error.next_step)


def _engine(choice: str | None) -> Check:
    engine = find_engine(choice)
    return Check(
        "engine",
        "good",
        f"{engine.name} {engine.server_version or engine.client_version} ({engine.builder} builds)",
    )


def _smolvm() -> Check:
    smolvm = find_smolvm(Progress())
    return Check("smolvm", "good", f"{smolvm.version} from {smolvm.origin}")


def _kvm(accel: Accel) -> Check:
    kvm = probe_kvm()
    if kvm.state == "good":
        return Check("kvm", "good", kvm.reason)
    mark: Mark = "bad" if accel == "kvm" else "poor"
    return Check("kvm", mark, f"{kvm.state}: {kvm.reason}", kvm.next_step)


def _emulation(accel: Accel) -> Check:
    """QEMU and what it boots: needed where KVM is no use, idle otherwise."""
    needed = accel == "emulated" or probe_kvm().state != "good"
    try:
        qemu = find_qemu()
        busybox()
        if needed:
            choose_accel("emulated")
        version = process.run([str(qemu), "--version"], timeout=10).text.splitlines()[0]
        ready = (paths.emulation_dir() / "vmlinuz").is_file()
        if needed and not ready:
            _kernel_package()
    except (AccelError, CommandFailed) as error:
        mark: Mark = "bad" if needed else "good"
        finding = error.message if needed else "not needed here, and not installed"
        return Check("emulation", mark, finding, error.next_step if needed else "")
    use = "in use" if needed else "not needed here"
    return Check("emulation", "good", f"{version.replace('QEMU emulator version', 'QEMU')}; {use}")


def _kernel_package() -> None:
    """Whether apt can bring the emulated host's kernel. Raises AccelError."""
    if (
        "Candidate: (none)"
        in (known := process.run(["apt-cache", "policy", "linux-image-amd64"], timeout=30).text)
        or not known
    ):
        raise AccelError(
            "apt does not know the kernel package linux-image-amd64", next_step="as root: apt-get update"
        )


def _memory() -> Check:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return Check("memory", "good", "not known on this system")
    finding = f"{human_bytes(available)} available"
    if available < _MEMORY_NEEDED:
        return Check("memory", "poor", finding, "free some, or run with a smaller --memory")
    return Check("memory", "good", finding)


def _disk() -> Check:
    folder = paths.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    finding = f"{human_bytes(free)} free in {paths.cache_dir()}"
    if not os.access(folder, os.W_OK):
        return Check(
            "disk", "bad", f"{paths.cache_dir()} is not writable", "name another with BOT_BOTTLE_CACHE_DIR"
        )
    if free < _DISK_NEEDED:
        return Check("disk", "poor", finding, "bottle cache prune, or free some space")
    return Check("disk", "good", finding)


def _cache() -> Check:
    entries = Cache(paths.artifacts_dir()).list()
    size = sum(entry.size for entry in entries)
    return Check("cache", "good", f"{len(entries)} artifacts, {human_bytes(size)}")
