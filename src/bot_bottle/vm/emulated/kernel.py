"""The emulated host's kernel and first file system, made from Debian's kernel package without installing it.

The kernel must be Debian's because its modules are files that can be picked one by one, and because apt
checks its signature.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import struct
import zlib
from importlib import resources
from pathlib import Path

import zstandard

from bot_bottle.errors import AccelError
from bot_bottle.host import process
from bot_bottle.host.files import replace_file
from bot_bottle.host.process import CommandFailed
from bot_bottle.host.progress import Progress

# modules of the emulated host; the modules they need are read from them
_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "9p",
    "9pnet_virtio",
    "overlay",
    "kvm-amd",
    "tun",
    "fuse",
    "crc32c_generic",
    "ext4",
)
# name size, description size, type, name (elf(5), "Notes")
_PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")
_META_PACKAGE = "linux-image-amd64"


def kernel(folder: Path, progress: Progress) -> tuple[Path, Path]:
    """Return kernel and initramfs, made in `folder` if they are missing. The caller has a lock on it.

    Raises AccelError with what to install when this machine has no means to make them.
    """
    image, initramfs = _files(folder)
    if image.is_file() and initramfs.is_file():
        return image, initramfs
    with progress.stage("kernel") as stage:
        work = folder / "kernel.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        stage.say("fetching Debian's kernel package")
        package = _download(work)
        stage.say("unpacking it")
        process.run(["dpkg-deb", "-x", package.name, "tree"], timeout=300, cwd=work)
        tree = work / "tree"
        initramfs_data = _initramfs(tree, work / "root")
        replace_file(initramfs, initramfs_data, work / initramfs.name, 0o644)
        kernel_data = uncompressed(next((tree / "boot").glob("vmlinuz-*")).read_bytes())
        replace_file(image, kernel_data, work / image.name, 0o644)
        stage.conclude(package.name.partition("_")[0])
        shutil.rmtree(work)
    return image, initramfs


def check_kernel(folder: Path) -> None:
    """Check that `kernel` has its files or could make them. Raises AccelError with what to do."""
    if not all(path.is_file() for path in _files(folder)):
        _package_name()


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "vmlinux", folder / "initramfs.gz"


def _package_name() -> str:
    """Return the package that the newest-kernel package depends on."""
    try:
        depends = process.run(["apt-cache", "depends", "--important", _META_PACKAGE], timeout=60).text
    except CommandFailed as error:
        raise _no_kernel(error.why) from error
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise _no_kernel(f"apt does not have {_META_PACKAGE}")
    return found.group(1)


def _download(work: Path) -> Path:
    try:
        process.run(["apt-get", "download", "-q", _package_name()], timeout=900, cwd=work)
        return next(work.glob("linux-image-*.deb"))
    except (CommandFailed, StopIteration) as error:
        raise _no_kernel(getattr(error, "why", "")) from error


def _no_kernel(why: str) -> AccelError:
    return AccelError(
        "the emulated host's kernel cannot be fetched",
        why=why,
        next_step=f"sudo apt-get update, then try again (it comes from Debian's {_META_PACKAGE})",
    )


def _initramfs(tree: Path, root: Path) -> bytes:
    """Return the first file system: busybox, the modules in loading order, and the script that starts."""
    for name in ("bin", "modules", "proc", "sys", "dev", "new"):
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox(), root / "bin/busybox")
    order = []
    for path in _loading_order(tree):
        name = re.sub(r"\.ko.*", ".ko", path.name)
        (root / "modules" / name).write_bytes(_module(path))
        order.append(name)
    (root / "modules/order").write_text("\n".join(order) + "\n")
    init = root / "init"
    init.write_text(resources.files("bot_bottle.vm.emulated.guest").joinpath("initramfs.sh").read_text())
    init.chmod(0o755)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = process.run(
        [str(busybox()), "cpio", "-o", "-H", "newc"],
        timeout=60,
        cwd=root,
        input="\n".join(names).encode() + b"\n",
    )
    return gzip.compress(archive.stdout, 1, mtime=0)


def uncompressed(image: bytes) -> bytes:
    """Return the kernel inside a bzImage, which QEMU starts directly, or the image itself where it would not.

    Left to itself the image unpacks itself in emulation, which takes a third of the time to the first shell.
    Sources: Linux, Documentation/arch/x86/boot.rst (setup_sects, payload_offset and payload_length) and
    Xen's PVH boot protocol (ELF note 18).
    """
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset :][:length]
    try:
        kernel = _unpacked(payload)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError):
        return image
    return kernel if _PVH_NOTE.search(kernel) else image


def _loading_order(tree: Path) -> list[Path]:
    """Return the files of the modules, each after those it needs. A built-in module has no file."""
    files = {
        re.sub(r"\.ko.*", "", path.name).replace("-", "_"): path
        for path in tree.glob("**/modules/*/kernel/**/*.ko*")
    }
    order: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in order:
            return
        # the .modinfo section holds NUL-ended "key=value" texts (linux/module.h, MODULE_INFO)
        found = re.search(rb"\0depends=([^\0]*)\0", _module(path))
        for needed in found.group(1).decode().split(",") if found else ():
            add(needed)
        order.append(path)

    for name in _MODULES:
        add(name)
    return order


def _module(path: Path) -> bytes:
    return _unpacked(path.read_bytes())


def _unpacked(data: bytes) -> bytes:
    """Return data without the compression that its first bytes show; what follows its end is ignored."""
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(data)
    return data


def busybox() -> Path:
    """Return a static busybox. Raises AccelError when there is none."""
    found = process.find("busybox")
    if found is None:
        raise AccelError(
            "busybox is needed for the emulated host", next_step="sudo apt-get install busybox-static"
        )
    return found
