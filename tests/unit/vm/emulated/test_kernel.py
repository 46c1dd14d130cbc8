"""The emulated host's kernel, and the order of its modules, which is read from the modules themselves."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bot_bottle.vm.emulated.kernel import _loading_order, _module, uncompressed


def module(tree: Path, name: str, needs: str, *, suffix: str = ".ko") -> None:
    path = tree / "lib/modules/6.1.0/kernel/drivers" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"\x7fELF...\0license=GPL\0depends=" + needs.encode() + b"\0name=" + name.encode() + b"\0"
    path.write_bytes(lzma.compress(data) if suffix.endswith(".xz") else data)


def test_what_a_module_needs_comes_before_it(tmp_path: Path) -> None:
    module(tmp_path, "virtio_pci", "virtio_pci_modern_dev,virtio_ring,virtio")
    module(tmp_path, "virtio_pci_modern_dev", "")
    module(tmp_path, "virtio_ring", "virtio")
    module(tmp_path, "virtio", "")
    module(tmp_path, "kvm-amd", "ccp,kvm", suffix=".ko.xz")
    module(tmp_path, "kvm", "irqbypass")
    module(tmp_path, "ccp", "built_in_here")
    module(tmp_path, "unwanted", "")
    order = [path.name.partition(".")[0] for path in _loading_order(tmp_path)]
    assert order == ["virtio_pci_modern_dev", "virtio", "virtio_ring", "virtio_pci", "ccp", "kvm", "kvm-amd"]


def test_compressed_modules_are_unpacked(tmp_path: Path) -> None:
    module(tmp_path, "kvm-amd", "kvm", suffix=".ko.xz")
    assert _module(next(tmp_path.rglob("*.xz"))).startswith(b"\x7fELF")


NOTE = struct.pack("<III", 4, 8, 18) + b"Xen\0" + bytes(8)


def boot_image(payload: bytes, sectors: int) -> bytes:
    """A bzImage: the payload lies 100 bytes into what follows the setup sectors, and more follows."""
    image = bytearray((sectors or 4) * 512 + 512)
    image[0x1F1] = sectors
    struct.pack_into("<II", image, 0x248, 100, len(payload))
    return bytes(image) + bytes(100) + payload + b"trailer"


@pytest.mark.parametrize("sectors", [0, 39])
@pytest.mark.parametrize(
    "compress",
    [lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress],
    ids=["xz", "gzip", "zstd"],
)
def test_the_kernel_inside_a_boot_image_is_found_and_unpacked(
    compress: Callable[[bytes], bytes], sectors: int
) -> None:
    kernel = b"\x7fELF" + bytes(5000) + NOTE + bytes(5000)
    # Linux keeps the unpacked size behind the payload's end
    assert uncompressed(boot_image(compress(kernel) + b"size", sectors)) == kernel


@pytest.mark.parametrize(
    "payload",
    [lzma.compress(b"\x7fELF without the note"), b"unknown compression", b"\x1f\x8bdamaged", b""],
)
def test_a_kernel_that_qemu_could_not_start_stays_as_it_is(payload: bytes) -> None:
    image = boot_image(payload, 39)
    assert uncompressed(image) == image
