"""The emulated host's root disk: busybox, smolvm, the guest's files. Made once for each smolvm version."""

from __future__ import annotations

import os
import shutil
import tarfile
from importlib import resources
from pathlib import Path

import zstandard

from bot_bottle.errors import AccelError
from bot_bottle.host import process
from bot_bottle.host.progress import Progress
from bot_bottle.vm.emulated.kernel import busybox
from bot_bottle.vm.package import Installation

# what smolvm, a dynamic program, loads; found through ldconfig's usual places
_LIBRARIES = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libgcc_s.so.1")
_LOADER = "/lib64/ld-linux-x86-64.so.2"
_FOLDERS = (
    "bin",
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "etc",
    "root",
    "share",
    "exchange",
    "var",
    "lib64",
    "lib",
    "opt/smolvm",
)
_SIZE = 80 << 30  # apparent; the file is sparse, and what a run writes goes to a snapshot of it


def root_disk(path: Path, smolvm: Installation, progress: Progress) -> Path:
    """Return the disk image at `path`, made if it is missing. The caller has a lock on its folder."""
    if path.is_file():
        return path
    mke2fs = _mke2fs()
    with progress.stage("disk") as stage:
        root = path.with_name(path.name + ".root")
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(root, ignore_errors=True)
        partial.unlink(missing_ok=True)
        _fill(root, smolvm)
        with partial.open("wb") as file:
            file.truncate(_SIZE)
        # no journal: a run's writes go to a snapshot that is thrown away
        process.run(
            [
                str(mke2fs),
                "-q",
                "-t",
                "ext4",
                "-m",
                "0",
                "-O",
                "^has_journal",
                "-E",
                "lazy_itable_init=1,root_owner=0:0",
                "-d",
                str(root),
                str(partial),
            ],
            timeout=600,
        )
        if os.geteuid():
            _give_to_root(root, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)
        shutil.rmtree(root)
        stage.conclude("the emulated host's root disk")
    return path


def check_disk() -> None:
    """Check that a root disk could be made here. Raises AccelError with what to install."""
    _mke2fs()
    busybox()
    for name in _LIBRARIES:
        _library(name)


def _mke2fs() -> Path:
    found = process.find("mke2fs")
    if found is None:
        raise AccelError("mke2fs is needed for the emulated host", next_step="sudo apt-get install e2fsprogs")
    return found


def _fill(root: Path, smolvm: Installation) -> None:
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox(), root / "bin/busybox")
    for applet in process.run([str(busybox()), "--list"], timeout=10).text.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    shutil.copy(_LOADER, root / "lib64")
    for name in _LIBRARIES:
        shutil.copy(_library(name), root / "lib64" / name)
    (root / "lib").rmdir()
    (root / "lib").symlink_to("lib64")
    for name in ("init", "agent"):
        script = root / (name if name == "init" else "agent.sh")
        script.write_text(resources.files("bot_bottle.vm.emulated.guest").joinpath(f"{name}.sh").read_text())
        script.chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nkvm:x:106:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for file in smolvm.files:
        # mke2fs keeps the holes of what is linked; a copy would have to find them again
        try:
            (root / "opt/smolvm" / file.name).hardlink_to(file)
        except OSError:
            process.run(["cp", "--sparse=always", str(file), str(root / "opt/smolvm")], timeout=300)
    with smolvm.agent_archive.open("rb") as packed:
        stream = zstandard.ZstdDecompressor().stream_reader(packed)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            # the package's own files, as trusted as its program; the filter would drop set-user-id bits
            tar.extractall(root / "opt/smolvm/agent-rootfs", filter="fully_trusted")  # noqa: S202


def _library(name: str) -> Path:
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"):
        path = Path(folder, name)
        if path.is_file():
            return path
    raise AccelError(
        f"the library {name} is needed for the emulated host",
        next_step="sudo apt-get install libc6 libgcc-s1",
    )


def _give_to_root(root: Path, image: Path) -> None:
    """Make root own every file in the image: an ordinary user's copy has that user's number in it."""
    commands = []
    for path in [root, *root.rglob("*")]:
        name = "/" + str(path.relative_to(root)) if path != root else "/"
        commands += [f'sif "{name}" uid 0', f'sif "{name}" gid 0']
    debugfs = process.find("debugfs") or Path("debugfs")
    process.run([str(debugfs), "-w", "-f", "-", str(image)], timeout=300, input="\n".join(commands).encode())
