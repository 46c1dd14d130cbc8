"""The channel to an emulated host: smolvm's commands, in its sessions.

Besides the ports of `vm.channel` there is a console for a session with a terminal.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence

from bot_bottle.errors import BootError
from bot_bottle.host import process
from bot_bottle.vm.channel import ControlPort, StreamRelay
from bot_bottle.vm.host import StderrFilter
from bot_bottle.vm.smolvm import HARDENING

SESSIONS = ("a", "b")  # one for the bottle's own command, one for bottle's other commands
PORTS = ("control", *(f"{stream}{session}" for session in SESSIONS for stream in ("in", "out", "err")))
CONSOLE = "console"

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


class Control(ControlPort):
    """The control port of an emulated host."""

    def send(self, kind: str, script: str) -> int:
        """Start a script in a session and return its number."""
        number = next(self.ids)
        text = base64.b64encode(script.encode("utf-8", "surrogateescape")).decode()
        try:
            self.write(f"{number} {kind} {text}")
        except OSError as error:
            raise BootError("the emulated host has ended", why=str(error)) from error
        return number


class Session:
    """One attached smolvm command in the emulated host, its three streams on ours."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._number = 0
        self._code: int | None = None
        self.relay = StreamRelay()
        self.stderr_filter = StderrFilter(2)

    def start(self, kind: str, script: str) -> None:
        """Start the script in a session of this kind (see agent.sh)."""
        self._number = self._control.send(kind, script)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait `timeout` seconds at most for its end and its output; return its exit status, or None."""
        if self.relay.broken:
            raise BrokenPipeError
        if self._code is None:
            code = self._control.wait(self._number, timeout)
            if code is None or not self.relay.finish(timeout):
                return None
            self._code = code
            self.stderr_filter.close(code)
        return self._code

    def end(self) -> None:
        """End the command now."""
        self._control.send("quiet", END)

    @property
    def failure(self) -> str:
        """What smolvm itself reported as the reason of a failure."""
        return self.stderr_filter.failure

    @property
    def last_line(self) -> str:
        """The last line of its standard error."""
        return self.stderr_filter.last_line


def smolvm_script(args: Sequence[str], env: Mapping[str, str]) -> str:
    """Return the shell script that runs smolvm."""
    process.log.info("+ in the emulated host: smolvm %s", process.shown(args))
    exports = "".join(
        f"export {key}={shlex.quote(value)}\n" for key, value in {**_ENVIRONMENT, **env}.items()
    )
    return f"{exports}exec smolvm {shlex.join(args)}"
