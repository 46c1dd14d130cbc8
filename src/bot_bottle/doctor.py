"""Checks whether `bottle run` works here. Each requirement is tried, and each problem has a next step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from bot_bottle.bottle.gc import run_context
from bot_bottle.cache.cache import Cache
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.errors import BottleError, Interrupted
from bot_bottle.host import paths, process
from bot_bottle.host.progress import Progress, human_bytes, human_count
from bot_bottle.host.sizes import available_memory
from bot_bottle.pack.trial import try_image
from bot_bottle.vm.accel import Accel, choose_accel
from bot_bottle.vm.capabilities import Kvm, check_landlock, probe_kvm
from bot_bottle.vm.direct.confine import try_confinement
from bot_bottle.vm.direct.open_network import INSTALL, PROGRAM
from bot_bottle.vm.emulated.host import check_emulation, own_smolvm
from bot_bottle.vm.foreign_smolvm import reject_foreign_binary
from bot_bottle.vm.guest_rootfs import guest_version
from bot_bottle.vm.qemu_program import find_qemu, qemu_version
from bot_bottle.vm.smolvm import find_smolvm

Mark = Literal["good", "poor", "bad"]

_DISK_NEEDED = 5 << 30
_MEMORY_NEEDED = 3 << 30


class Check(Struct, frozen=True):
    """The result of one check. `poor` works, but not well; `bad` prevents `bottle run` from working."""

    name: str
    mark: Mark
    finding: str
    next_step: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        return asdict(self)


def examine(
    *,
    engine: str | None = None,
    accel: Accel = "auto",
    kvm: Kvm | None = None,
    progress: Progress | None = None,
) -> Iterator[Check]:
    """Yield the result for each requirement of `bottle run`, in the order in which it needs them.

    An image of one file is built and packed with the engine, if one answers, and removed again. `kvm` is the
    state of KVM (default: this machine's). smolvm is prepared if it is not yet.
    """
    found = kvm or probe_kvm()
    # a KVM that was requested and cannot be used is not replaced by emulation
    chosen = "kvm" if accel == "kvm" else choose_accel(accel, found)
    progress = progress or Progress()
    engines: list[Engine] = []

    def look_for_engine() -> Check:
        engines.append(find_engine(engine, say=progress.note))
        return _engine(engines[0])

    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("engine", look_for_engine),
        ("disk", _disk),
        ("smolvm", lambda: _smolvm(progress, chosen)),
        ("image", lambda: _image(engines[0])),
        ("kvm", lambda: _kvm(found, accel)),
        ("emulation", lambda: _emulation(chosen)),
        ("memory", _memory),
        ("cache", _cache),
    )
    for name, check in checks:
        if name == "image" and not engines:
            continue  # already reported
        try:
            yield check()
        except Interrupted:
            raise
        except BottleError as error:
            words = error.why.splitlines()
            yield Check(name, "bad", ": ".join([error.message, *words[:1]]), error.next_step)
        except OSError as error:  # a folder that belongs to another user, for example after sudo
            finding = f"{error.strerror}: {error.filename}"
            yield Check(
                name, "bad", finding, "change its owner, or set BOT_BOTTLE_CACHE_DIR to another folder"
            )


def _engine(engine: Engine) -> Check:
    return Check(
        "engine",
        "good",
        f"{engine.name} {engine.server_version or engine.client_version} ({engine.builder} builds)",
    )


def _image(engine: Engine) -> Check:
    with run_context() as run:
        tried = try_image(engine, run)
    if tried.error is not None:
        return Check(
            "image",
            "bad",
            f"{engine.name} could not {tried.step} an image of one file: {tried.words}",
            tried.error.next_step or f"see what `{engine.name} info` and the engine's log say",
        )
    size, seconds = human_bytes(tried.size), f"{tried.seconds:.1f} s"
    return Check("image", "good", f"built one of one file, packed it ({size}) and removed it in {seconds}")


def _smolvm(progress: Progress, chosen: Accel) -> Check:
    if chosen == "direct":
        reject_foreign_binary()
        return Check("smolvm", "good", f"guest system {guest_version()} from package smolmachines")
    if chosen == "nested":
        return Check("smolvm", "good", f"{own_smolvm(progress).version} from package smolmachines")
    check_landlock()
    smolvm = find_smolvm(progress)
    return Check("smolvm", "good", f"{smolvm.version} from {smolvm.origin}")


def _kvm(kvm: Kvm, accel: Accel) -> Check:
    if kvm.state == "good":
        return Check("kvm", "good", kvm.reason)
    mark: Mark = "bad" if accel == "kvm" else "poor"
    return Check("kvm", mark, f"{kvm.state}: {kvm.reason}", kvm.next_step)


def _emulation(chosen: Accel) -> Check:
    """Check QEMU and what it boots."""
    match chosen:
        case "direct":
            return _confinement(find_qemu())
        case "nested":
            return Check("emulation", "good", f"QEMU {check_emulation()}, which emulates a host with KVM")
    return Check("emulation", "good", "not needed here")


def _confinement(qemu: Path) -> Check:
    """Return the check of a QEMU that emulates microVMs: its version, and how it is confined."""
    finding = f"QEMU {qemu_version(qemu)}, which emulates microVMs"
    if lacking := try_confinement().missing():
        return Check(
            "emulation",
            "poor",
            f"{finding}; it is confined without {', '.join(lacking)}",
            "allow user namespaces (sysctl user.max_user_namespaces), and use a kernel with Landlock",
        )
    if process.find(PROGRAM) is None:
        finding += f"; for --network open there, {INSTALL}"
    return Check("emulation", "good", finding)


def _memory() -> Check:
    available = available_memory()
    if available is None:
        return Check("memory", "good", "not known on this system")
    finding = f"{human_bytes(available)} available"
    if available < _MEMORY_NEEDED:
        return Check("memory", "poor", finding, "free some, or run with a smaller --memory")
    return Check("memory", "good", finding)


def _disk() -> Check:
    folder = paths.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            "disk",
            "bad",
            f"cannot write to {folder}: {error.strerror}",
            "set BOT_BOTTLE_CACHE_DIR to another folder",
        )
    finding = f"{human_bytes(free)} free in {folder}"
    if free < _DISK_NEEDED:
        return Check("disk", "poor", finding, "bottle cache prune, or free some space")
    return Check("disk", "good", finding)


def _cache() -> Check:
    entries = Cache(paths.artifacts_dir()).list()
    size = sum(entry.total for entry in entries)
    return Check("cache", "good", f"{human_count(len(entries), 'artifact')}, {human_bytes(size)}")
