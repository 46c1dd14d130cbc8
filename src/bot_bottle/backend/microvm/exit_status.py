"""What the end of a command in a microVM means: its own exit status, or that smolvm or the machine failed."""

from __future__ import annotations

import json
import re
from contextlib import suppress

from bot_bottle.errors import SmolvmError
from bot_bottle.vm.host import Attached, Host
from bot_bottle.vm.smolvm import GUEST_GONE, status_argv

_QUICK = 60.0  # seconds

# smolvm answers 255 for a command that cannot be started; docker's users know 126 and 127
_NOT_FOUND = re.compile(r"executable file .* not found|No such file or directory\Z")
_NOT_RUNNABLE = re.compile(r"Operation not permitted|Permission denied|not executable")


def exit_status(code: int, attached: Attached, host: Host, machine: str, *, tty: bool) -> int:
    """Give a command's exit status as docker has it. Raises SmolvmError when smolvm itself failed.

    On a terminal smolvm has said why by itself, and its status 1 may also be the command's.
    """
    gone = any(words in attached.failure for words in GUEST_GONE)
    if gone or (tty and code == 1 and _has_ended(host, machine)):
        ended = "the microVM ended before its command did"
        raise SmolvmError(ended, why=attached.failure, next_step=_end_hint(host))
    if attached.failure:
        raise SmolvmError("smolvm could not run the command", why=attached.failure)
    if code == 255 and _NOT_FOUND.search(attached.last_line):
        return 127
    if code == 255 and _NOT_RUNNABLE.search(attached.last_line):
        return 126
    return code


def _has_ended(host: Host, machine: str) -> bool:
    with suppress(SmolvmError, ValueError, TypeError, KeyError):
        done = host.call(status_argv(machine), timeout=_QUICK, check=False)
        return bool(json.loads(done.stdout)["state"] != "running")
    return False


def _end_hint(host: Host) -> str:
    if host.kind == "kvm":
        return "if dmesg tells that it was killed for its memory, run it again with a smaller --memory"
    return "run it again: in emulation, a guest now and then ends by itself"
