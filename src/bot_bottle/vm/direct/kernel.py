"""smolvm's guest kernel as a file that QEMU boots.

The kernel is in `libkrunfw.so.5` as an image of the guest's memory, entered in 64-bit mode. QEMU starts an
ELF file in 32-bit mode (PVH), so a few instructions of ours come before it: they pass on the memory map and
the command line, and enter 64-bit mode with the first GiB mapped to itself.

Sources: Linux, Documentation/arch/x86/boot.rst (64-bit boot protocol) and zero-page.rst; Xen, "x86/HVM direct
boot ABI" (struct hvm_start_info); System V ABI, AMD64 supplement, "Program Header".
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

from bot_bottle.errors import AccelError
from bot_bottle.host.files import replace_file

LIBRARY = "libkrunfw.so.5"

_BASE = 0x10_0000  # the program: a page of code, three page tables, boot_params, a stack
_PAGE = 0x1000
_TABLES = _BASE + _PAGE
_LARGEST = 1 << 30  # bytes; the memory that is mapped

# 32-bit code, entered with %ebx at hvm_start_info
_CODE = bytes.fromhex(
    "fa fc"  # cli; cld
    "bc00601000 bd00401000"  # %esp: the end of the stack; %ebp: boot_params
    "66c785fe01000055aa"  # boot_flag
    "c7850202000048647253 66c785060200000f02"  # header "HdrS", version 2.15
    "66c78510020000ff01"  # type_of_loader: none of the list; loadflags: LOADED_HIGH
    "c7853002000000000001 c78538020000ff070000"  # kernel_alignment, cmdline_size
    "8b4318 898528020000"  # cmdline_paddr -> cmd_line_ptr
    "8b4320 894570 8b4324 894574"  # rsdp_paddr -> acpi_rsdp_addr
    "8b7328 8b5330"  # %esi: memmap_paddr; %edx: memmap_entries
    "81fa80000000 7605 ba80000000"  # 128 at most
    "8895e8010000 8dbdd0020000"  # e820_entries; %edi: e820_table
    "eb09 b905000000 f3a5 ad 4a 85d2 75f3"  # of each entry the first 20 of 24 bytes
    "0f20e0 0fbae805 0f22e0"  # CR4.PAE
    "b800101000 0f22d8"  # CR3
    "b9800000c0 0f32 0fbae808 0f30"  # EFER.LME
    "0f20c0 0fbae81f 0f22c0"  # CR0.PG
    "0f0115f00f1000 eabf0010001000"  # lgdt; jump to the 64-bit code, which follows
    "b818000000 8ed8 8ec0 8ee0 8ee8 8ed0"  # the data segments
    "4889ee bbe80f1000 ff23"  # %rsi: boot_params; jump to the kernel's entry
)
_ENTRY_AT, _GDT_REGISTER_AT, _GDT_AT = 0xFE8, 0xFF0, 0xFC0
_GDT = struct.pack("<4Q", 0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)  # 64-bit code, data

_PRESENT, _LARGE = 0x3, 0x83  # present and writable; a page of 2 MiB
_PVH_NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", _BASE)  # XEN_ELFNOTE_PHYS32_ENTRY


def write_kernel(library: Path, target: Path) -> None:
    """Write the kernel of smolvm's library as an ELF file. Raises AccelError, OSError."""
    load, entry, image = _kernel_of(library)
    replace_file(target, elf(load, entry, image), target.with_name(f"{target.name}.partial"), 0o644)


def elf(load: int, entry: int, image: bytes) -> bytes:
    """Return an ELF file that loads the image at `load` and enters it at `entry`. Raises AccelError."""
    program = _program(entry)
    ends = load + len(image)
    if not (_BASE + len(program) <= load <= entry < ends <= _LARGEST):
        raise AccelError(
            "smolvm's guest kernel cannot be booted directly",
            why=f"it is {len(image)} bytes at {load:#x}, entered at {entry:#x}",
            next_step="use --accel nested",
        )
    at = 64 + 3 * 56
    places = [(at, len(_PVH_NOTE)), (_PAGE, len(program)), (_PAGE + len(program), len(image))]
    headers = [
        struct.pack("<IIQQQQQQ", kind, 7, offset, address, address, size, size, 4)
        for kind, address, (offset, size) in zip((4, 1, 1), (0, _BASE, load), places, strict=True)
    ]
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    head = b"".join((header, *headers, _PVH_NOTE))
    return b"".join((head.ljust(_PAGE, b"\0"), program, image))


def _program(entry: int) -> bytes:
    code = bytearray(_PAGE)
    code[: len(_CODE)] = _CODE
    code[_GDT_AT : _GDT_AT + len(_GDT)] = _GDT
    struct.pack_into("<Q", code, _ENTRY_AT, entry)
    struct.pack_into("<HI", code, _GDT_REGISTER_AT, len(_GDT) - 1, _BASE + _GDT_AT)
    tables = bytearray(3 * _PAGE)
    struct.pack_into("<Q", tables, 0, _TABLES + _PAGE | _PRESENT)
    struct.pack_into("<Q", tables, _PAGE, _TABLES + 2 * _PAGE | _PRESENT)
    struct.pack_into("<512Q", tables, 2 * _PAGE, *((number << 21) | _LARGE for number in range(512)))
    return bytes(code + tables + bytes(2 * _PAGE))


def _kernel_of(library: Path) -> tuple[int, int, bytes]:
    """Return where the kernel is loaded and entered, and its image, as the library says itself."""
    load, entry, size = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_size_t()
    try:
        function = ctypes.CDLL(str(library)).krunfw_get_kernel
        function.restype = ctypes.c_void_p
        image = function(ctypes.byref(load), ctypes.byref(entry), ctypes.byref(size))
    except (OSError, AttributeError) as error:
        raise AccelError(
            f"smolvm's guest kernel cannot be read from {library}",
            why=str(error),
            next_step="install it again: pip install --force-reinstall smolmachines",
        ) from error
    return load.value, entry.value, ctypes.string_at(image, size.value)
