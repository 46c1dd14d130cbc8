"""smolvm's kernel as an ELF file that QEMU boots."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bot_bottle.errors import AccelError
from bot_bottle.vm.direct.kernel import LIBRARY, elf, write_kernel
from bot_bottle.vm.guest_rootfs import find_guest


def segments(data: bytes) -> list[tuple[int, ...]]:
    """Type, flags, offset, virtual address, physical address and size of each program header."""
    assert data[:6] == b"\x7fELF\2\1"
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    assert size == 56
    return [struct.unpack_from("<IIQQQQ", data, start + number * size) for number in range(count)]


def test_the_file_has_the_note_of_pvh_the_program_and_the_kernel() -> None:
    image = bytes(range(256)) * 100
    data = elf(0x100_0000, 0x100_2080, image)
    note, program, kernel = segments(data)
    assert (note[0], program[0], kernel[0]) == (4, 1, 1)
    [entry] = struct.unpack_from("<Q", data, 24)
    assert data[note[2] :][: note[5]] == struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    assert program[4] == entry
    assert (kernel[4], data[kernel[2] :][: kernel[5]]) == (0x100_0000, image)
    assert program[2] % 4096 == 0


@pytest.mark.parametrize(
    ("load", "entry"),
    [(0x10_0000, 0x10_0000), (0x100_0000, 0xFF_0000), (0x100_0000, 0x200_0000), (1 << 31, 1 << 31)],
)
def test_a_kernel_at_another_place_is_refused(load: int, entry: int) -> None:
    with pytest.raises(AccelError, match="cannot be booted directly"):
        elf(load, entry, bytes(4096))


def test_the_installed_kernel_is_written(tmp_path: Path) -> None:
    library = find_guest().path.parent / LIBRARY
    write_kernel(library, tmp_path / "kernel")
    kernel = segments((tmp_path / "kernel").read_bytes())[2]
    assert kernel[5] > 10_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["kernel"]


def test_a_library_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / LIBRARY).write_bytes(b"no library")
    with pytest.raises(AccelError, match="cannot be read"):
        write_kernel(tmp_path / LIBRARY, tmp_path / "kernel")
