"""QEMU: where it is, what it says of itself, and its command line for an emulated host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bot_bottle.errors import AccelError
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed
from bot_bottle.vm.emulated import door
from bot_bottle.vm.emulated.channel import CONSOLE, PORTS

# The ticks are periodic because emulated interrupts get lost: QEMU notes one in a word that the entry into a
# nested guest changes too, without a lock (7.2: helper_vmrun, interrupt_request). Where the next tick is due
# only when the last one has been handled, a processor whose tick was lost stands still for good.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 nohz=off highres=off"


def find_qemu() -> Path:
    """Find QEMU. Raises AccelError when it is not installed."""
    found = process.find("qemu-system-x86_64")
    if found is None:
        raise AccelError(
            "QEMU is needed to emulate a host with KVM",
            next_step="sudo apt-get install --no-install-recommends qemu-system-x86 busybox-static",
        )
    return found


def qemu_version() -> str:
    """Ask QEMU for its version. Raises AccelError when there is none that runs."""
    qemu = find_qemu()
    try:
        found = re.search(r"version (\S+)", process.run([str(qemu), "--version"], timeout=10).text)
    except CommandFailed as error:
        raise AccelError(f"{qemu} does not run", why=error.why) from error
    return found.group(1) if found else "of an unknown version"


def processor_argv(count: int) -> list[str]:
    """Give the options for processors that have what KVM needs.

    With two, about every tenth nested guest ended in the middle of its boot or its work, and sometimes the
    emulated host with it. With one, none of a hundred did: each was up in up to 1.6 times the time, and two
    of them beside each other took no longer. A guest of several processors, as smolvm has one for packing,
    needs two: with one it comes up in minutes or not at all.
    """
    return ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(count)]


def qemu_argv(
    image: Path,
    initramfs: Path,
    disk: Path,
    memory_mib: int,
    exchange: Path | None,
    port: int | None,
    *,
    network: bool,
    published: Sequence[int] = (),
    processors: int = 1,
) -> list[str]:
    """Give QEMU's command line. Paths of sockets are relative to its folder: they have to be short."""
    argv = [str(find_qemu()), *processor_argv(processors)]
    argv += ["-m", f"{memory_mib}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-serial", "file:console.log"]
    argv += door.argv(port, network=network, published=published)
    argv += ["-kernel", str(image), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS]
    argv += ["-drive", f"file={_escaped(disk)},if=virtio,format=raw,snapshot=on,cache=unsafe"]
    argv += ["-virtfs", f"{_share('share', Path('share'))},readonly=on"]
    if exchange is not None:
        argv += ["-virtfs", _share("exchange", exchange)]
    argv += ["-device", "virtio-serial-pci,max_ports=16"]
    for name in (*PORTS, CONSOLE):
        argv += ["-chardev", f"socket,id={name},path={name},server=on,wait=off"]
    for name in PORTS:
        argv += ["-device", f"virtserialport,chardev={name},name={name}"]
    return [*argv, "-device", f"virtconsole,chardev={CONSOLE}"]


def _share(tag: str, folder: Path) -> str:
    return f"local,path={_escaped(folder)},mount_tag={tag},security_model=none,multidevs=remap"


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")
