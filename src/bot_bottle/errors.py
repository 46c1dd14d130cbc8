"""Every way bot-bottle fails: one class for each kind, each with its own exit status.

A command's own exit status is ours, so bot-bottle's own failures use 99 to 125, a range that programs rarely
use. `docker run` does the same with 125.
"""

from __future__ import annotations

from typing import ClassVar


class BottleError(Exception):
    """A failure without a kind of its own, or a bug in bottle.

    Shown once: what failed, why, and what to do next. `why` may contain the failing tool's own output, of
    several lines. `next_step` is an instruction.
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
    """The command line contradicts itself, or names something that does not exist."""

    exit_code = 2


class SpecError(BottleError):
    """A bottle cannot be made as requested: no Dockerfile, an invalid size, an invalid name."""

    exit_code = 101


class CommandError(BottleError):
    """A program that bottle runs failed, was not found, or did not end in time."""

    exit_code = 102


class EngineError(BottleError):
    """No container engine answers, or it refused a request."""

    exit_code = 103


class BuildError(BottleError):
    """The Dockerfile did not build."""

    exit_code = 104


class ImageError(BottleError):
    """An image or archive is damaged, hostile, or in an unsupported format."""

    exit_code = 105


class ArtifactError(BottleError):
    """A `.smolmachine` file is damaged or could not be written."""

    exit_code = 106


class CacheError(BottleError):
    """The cache cannot be used."""

    exit_code = 107


class DiskFullError(BottleError):
    """The disk or a quota is full."""

    exit_code = 108


class SmolvmError(BottleError):
    """smolvm is missing, is another product, or refused a command; or the microVM ended too early."""

    exit_code = 109


class AccelError(BottleError):
    """There is no way to run a virtual machine here: KVM cannot be used, and emulation is not possible."""

    exit_code = 110


class BootError(BottleError):
    """The microVM, the emulated host or the container did not start."""

    exit_code = 111


class RegistryError(BottleError):
    """A registry could not start, does not answer, or refused a request."""

    exit_code = 112


class DoctorError(BottleError):
    """`bottle doctor` found something that prevents `bottle run` from working."""

    exit_code = 113


class VerifyError(BottleError):
    """`bottle cache verify` found damaged artifacts."""

    exit_code = 114


class DifferenceError(BottleError):
    """`bottle verify` found differences between an artifact and its image that nothing explains."""

    exit_code = 115


class WorkspaceError(BottleError):
    """The workspace cannot be opened or fetched: no repository, a hostile one, a name in use."""

    exit_code = 116


class ConflictError(BottleError):
    """A bottle's work conflicts with what is in your folder; nothing was changed."""

    exit_code = 117


class ReceiptError(BottleError):
    """There is no such run, or its receipt cannot be read."""

    exit_code = 118


class WallsError(BottleError):
    """The network isolation or another restriction is not in force; the command was not started."""

    exit_code = 119


class TrustError(BottleError):
    """bottle.toml requests access that you have not granted."""

    exit_code = 120


class SecretError(BottleError):
    """A secret is not where its reference says, or cannot be passed on."""

    exit_code = 121


class LeakError(BottleError):
    """`bottle scan`, or `bottle push --scan`, found something that looks like a secret."""

    exit_code = 122


class AgentError(BottleError):
    """An agent's package cannot be fetched, or is not the one that was pinned; or its state is not there."""

    exit_code = 123


class TimeLimitError(BottleError):
    """The command ran for longer than `--timeout` allows, and was ended."""

    exit_code = 124


class UntrustedError(BottleError):
    """An artifact of a registry is not signed by a trusted key, or is another than was asked for."""

    exit_code = 125


class ClusterError(BottleError):
    """A Ray cluster does not answer, cannot run the bottles, or is not protected as it has to be."""

    exit_code = 99


class Interrupted(BottleError):
    """The user ended the command with a signal. The exit status is 128 + the signal's number."""

    exit_code = 130

    def __init__(self, signum: int = 2) -> None:
        super().__init__("interrupted")
        self.signum = signum
