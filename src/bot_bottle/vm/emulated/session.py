"""One smolvm command in an emulated host: the script that runs it, and its three streams on ours."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

from bot_bottle.host import process
from bot_bottle.vm.emulated.channel import Control, Pump, Sink
from bot_bottle.vm.host import StderrSieve
from bot_bottle.vm.smolvm import HARDENING

_ENVIRONMENT = {
    **HARDENING,
    "SMOLVM_LIB_DIR": "/opt/smolvm",
    "SMOLVM_AGENT_ROOTFS": "/opt/smolvm/agent-rootfs",
    "SMOLVM_AGENT_READY_TIMEOUT_SECS": "180",
}

# busybox, as Debian has it, brings no pkill
END = """\
for process in /proc/[0-9]*; do
  tr '\\0' ' ' < "$process/cmdline" | grep -q '^smolvm machine exec.* -i ' && kill -KILL "${process#/proc/}"
done
:
"""


class Session:
    """One attached command in the emulated host."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._number = 0
        self._code: int | None = None
        self.pump = Pump()
        self.sieve = StderrSieve(2)

    def start(self, kind: str, script: str) -> None:
        """Send it; of this kind of session, as agent.sh knows them."""
        self._number = self._control.send(kind, script)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end and for all it said."""
        if self.pump.broken:
            raise BrokenPipeError
        if self._code is None:
            code = self._control.wait(self._number, timeout)
            if code is None or not self.pump.finish(timeout):
                return None
            self._code = code
            self.sieve.close(code)
        return self._code

    def end(self) -> None:
        """End it now."""
        self._control.send("quiet", END)

    @property
    def failure(self) -> str:
        """What smolvm itself complained of."""
        return self.sieve.failure

    @property
    def last_line(self) -> str:
        """The last line of its standard error."""
        return self.sieve.last_line


def to(descriptor: int) -> Sink:
    """Give what writes all of its data to one of our own streams."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def script(args: Sequence[str], env: Mapping[str, str]) -> str:
    """Give the shell script that runs smolvm."""
    process.log.info("+ in the emulated host: smolvm %s", process.shown(args))
    exports = "".join(
        f"export {key}={shlex.quote(value)}\n" for key, value in {**_ENVIRONMENT, **env}.items()
    )
    return f"{exports}exec smolvm {shlex.join(args)}"
