"""Every way bot-bottle fails: one class a kind, each with its own exit status.

A command run in a bottle gives its own exit status as ours, so bot-bottle's own failures keep to 100-125,
a range that programs rarely use. `docker run` does the same with 125.
"""

from __future__ import annotations

from typing import ClassVar


class BottleError(Exception):
    """Something a user has to know about, said once: what failed, why, and what to do next.

    `why` may hold the failing tool's own words, of several lines. `next_step` is an instruction.
    """

    exit_code: ClassVar[int] = 100

    def __init__(self, message: str, *, why: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why.strip()
        self.next_step = next_step.strip()

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  {line}" for line in self.why.splitlines()]
        if self.next_step:
            lines.append(f"Next: {self.next_step}")
        return "\n".join(lines)


class UsageError(BottleError):
    """The request itself makes no sense: options that exclude each other, a path that does not exist."""

    exit_code = 2


class SpecError(BottleError):
    """What was asked for cannot be built into a bottle: no Dockerfile, a bad memory size, a bad name."""

    exit_code = 101


class CommandError(BottleError):
    """A program that bot-bottle runs failed, was not found, or did not end in time."""

    exit_code = 102


class EngineError(BottleError):
    """No container engine answers, or it refused what it was asked."""

    exit_code = 103


class BuildError(BottleError):
    """The Dockerfile did not build; `why` holds the end of the build's own output."""

    exit_code = 104


class ImageError(BottleError):
    """An image or archive is damaged, hostile, or of a form that is not understood."""

    exit_code = 105


class ArtifactError(BottleError):
    """A `.smolmachine` file is damaged, or could not be written."""

    exit_code = 106


class CacheError(BottleError):
    """The artifact cache cannot be used."""

    exit_code = 107


class DiskFullError(BottleError):
    """A write failed because the file system is full (or a quota is)."""

    exit_code = 108


class SmolvmError(BottleError):
    """smolvm is missing, is another product, or refused a command; or its microVM ended before that."""

    exit_code = 109


class AccelError(BottleError):
    """No way to run a virtual machine: KVM is no use here and emulation is not possible either."""

    exit_code = 110


class BootError(BottleError):
    """The microVM, or the emulated host it runs on, did not come up."""

    exit_code = 111


class RegistryError(BottleError):
    """The ephemeral registry could not start, or refused what it was given."""

    exit_code = 112


class DoctorError(BottleError):
    """`bottle doctor` found something that keeps `bottle run` from working."""

    exit_code = 113


class VerifyError(BottleError):
    """A verification found damage; what is damaged has been listed."""

    exit_code = 114


class DifferenceError(BottleError):
    """`bottle verify` found that an artifact is not what its image is; what differs has been listed."""

    exit_code = 115


class WorkspaceError(BottleError):
    """The workspace cannot be made or brought back: no repository, a damaged or hostile one, a name taken."""

    exit_code = 116


class ConflictError(BottleError):
    """A bottle's work does not fit onto what is there now; nothing was changed, the places were listed."""

    exit_code = 117


class ReceiptError(BottleError):
    """Nothing is known of a run, or its receipt cannot be read."""

    exit_code = 118


class WallsError(BottleError):
    """A bottle's walls are not up, or not as they were asked for; its command was not started."""

    exit_code = 119


class TrustError(BottleError):
    """A repository asks for more than its user has granted, and nobody was there to be asked."""

    exit_code = 120


class SecretError(BottleError):
    """A secret is not where its reference says, or cannot be handed over. The value is never told."""

    exit_code = 121


class LeakError(BottleError):
    """`bottle scrub` found what looks like a secret; where it is has been listed."""

    exit_code = 122


class Interrupted(BottleError):
    """The user ended the command with a signal. The exit status is 128 + the signal's number."""

    exit_code = 130

    def __init__(self, signum: int = 2) -> None:
        super().__init__("interrupted")
        self.signum = signum
