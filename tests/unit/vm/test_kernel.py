"""The order in which the emulated host's kernel modules are loaded, read from the modules themselves."""

from __future__ import annotations

import lzma
from pathlib import Path

from bot_bottle.vm.kernel import _loading_order, _module


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
