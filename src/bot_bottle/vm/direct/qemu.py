"""QEMU's command line for a guest that it emulates itself.

The machine is `microvm`: smolvm's guest kernel has neither PCI nor ACPI nor a serial port. Sources: QEMU's
manual, "microvm"; Linux, Documentation/admin-guide/kernel-parameters.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, field

from bot_bottle.vm import console
from bot_bottle.vm.channel import CONTROL_PORT
from bot_bottle.vm.direct.guest import INIT

SESSIONS = 8
TERMINALS = 4  # the first sessions have one each; a device has 31 ports at most

# ports by their number; 0 is the console's. agent.sh counts on these
CONTROL, DATA = CONTROL_PORT, "data"

# A device that names none of the eight gets the last free one: the disks and the first serial device do.
# Number 3 is left out: it has interrupt 8, and the guest's clock (rtc_cmos) cannot use its own then.
BUSES = {
    name: f"bus=virtio-mmio-bus.{number}" for name, number in (("sessions", 2), ("share", 1), ("network", 0))
}

# The guest has one user, who is root in it: nothing is hidden from anybody by mitigations. The kernel boots
# with one processor, and init.sh starts the others: as long as it boots it changes its own code
# (sched_clock_init_late), and another processor of QEMU's can then meet a breakpoint that is there no more.
_KERNEL = (
    "console=hvc0 loglevel=5 panic=-1 reboot=t root=/dev/vda rootfstype=erofs ro"
    f" init={INIT} no_timer_check mitigations=off noreplace-smp maxcpus=1"
)
# all that QEMU emulates, but not virtualization: preparing its KVM is a tenth of the kernel's start
_PROCESSOR = "max,-svm"
# MiB of memory for translated code. A large program fills any amount in time; then all of it is translated
# again, which took no measurable time with this much and doubled it with 48
_TRANSLATION_MIB = 64
_SANDBOX = "on,obsolete=deny,resourcecontrol=deny,elevateprivileges=deny,spawn=deny"


class Files(Struct, frozen=True):
    """The guest's kernel and disks, as QEMU is to open them."""

    kernel: str
    system: str
    root: str
    storage: str


class Extras(Struct, frozen=True):
    """Options for a shared folder and a network, with those of the machine that they need."""

    options: Sequence[str] = ()
    machine: str = ""


class Guest(Struct, frozen=True):
    """The size of a guest, and what it has besides its disks."""

    files: Files
    memory_mib: int
    processors: int = 1
    extras: Extras = field(default_factory=Extras)


def port_names(session: int) -> tuple[str, str, str]:
    """Return the names of the ports of a session's standard input, output and error."""
    return f"in{session}", f"out{session}", f"err{session}"


def terminal_name(session: int) -> str:
    """Return the name of a session's terminal."""
    return f"tty{session}"


def qemu_argv(qemu: Path, guest: Guest, khz: int | None) -> list[str]:
    """Return QEMU's command line; `khz` is the rate of the processor's time-stamp counter.

    Sockets are below its current folder: their paths have to be short.
    """
    # with `lpj`, loops in a tick of 4 ms, no processor measures what is known
    clock = "" if khz is None else f" tsc_early_khz={khz} tsc=reliable lpj={4 * khz}"
    argv = [str(qemu), "-M", f"microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=off{guest.extras.machine}"]
    argv += ["-accel", f"tcg,thread=multi,tb-size={_TRANSLATION_MIB}", "-cpu", _PROCESSOR]
    argv += ["-smp", str(guest.processors), "-m", f"{guest.memory_mib}M"]
    argv += ["-global", "virtio-mmio.force-legacy=false"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-sandbox", _SANDBOX]
    argv += ["-kernel", guest.files.kernel, "-append", _KERNEL + clock]
    argv += _disk("system", guest.files.system, "readonly=on")
    argv += _disk("root", guest.files.root, "readonly=on")
    # an error goes to the guest, whose program has filled the disk; QEMU would stand still
    argv += _disk("storage", guest.files.storage, "cache=unsafe,werror=report,rerror=report")
    return [*argv, *_ports(), *guest.extras.options]


def _disk(name: str, path: str, options: str) -> list[str]:
    drive = f"id={name},file={path.replace(',', ',,')},format=raw,if=none,{options}"
    return ["-drive", drive, "-device", f"virtio-blk-device,drive={name}"]


def _ports() -> list[str]:
    # Two devices, and no `name=`: QEMU tells the guest of a port in messages, which it drops while 32 are on
    # their way for a device. With 31 ports on one, the guest did not always learn that a port is the console,
    # nor with QEMU 11 that we are connected.
    argv = ["-device", "virtio-serial-device,id=first,max_ports=3"]
    argv += [
        "-chardev",
        f"file,id=console,path={console.NAME}",
        "-device",
        "virtconsole,bus=first.0,chardev=console",
    ]
    for number, name in enumerate((CONTROL, DATA), 1):
        argv += _port(name, f"virtserialport,bus=first.0,nr={number}")
    terminals = 3 * (SESSIONS + 1)
    argv += [
        "-device",
        f"virtio-serial-device,id=second,{BUSES['sessions']},max_ports={terminals + TERMINALS}",
    ]
    for session in range(1, SESSIONS + 1):
        for number, name in enumerate(port_names(session), 3 * session):
            argv += _port(name, f"virtserialport,bus=second.0,nr={number}")
    for session in range(1, TERMINALS + 1):
        argv += _port(terminal_name(session), f"virtconsole,bus=second.0,nr={terminals + session - 1}")
    return argv


def _port(name: str, device: str) -> list[str]:
    return [
        "-chardev",
        f"socket,id={name},path={name},server=on,wait=off",
        "-device",
        f"{device},chardev={name}",
    ]
