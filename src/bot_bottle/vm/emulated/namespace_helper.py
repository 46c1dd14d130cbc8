"""A process that enters a network namespace of its own, passes sockets of it on, and then becomes QEMU.

Its arguments are a JSON document (see `namespace`) and QEMU's command line. It imports little, as
`vm.direct.confine_helper`, of which it uses parts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import ExitStack
from typing import Any

from bot_bottle.vm.direct import kernel_calls
from bot_bottle.vm.direct.confine_helper import (
    bring_up_loopback,
    make_connections,
    open_channel,
    unshare_as_user,
)

FAILED = 125  # the exit status without a namespace

_ADDRESS = "127.0.0.1"
_BACKLOG = 128


def main() -> None:
    """Do what the document says, and become the program."""
    asked, argv = json.loads(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
    try:
        privileged = _enter()
        bring_up_loopback()
        _pass_sockets(asked["sockets"])
        if (connect := asked["connect"]) is not None:
            make_connections(open_channel(connect["path"]), _ADDRESS, connect["ports"])
        if not privileged:
            kernel_calls.drop_bounding_set()
            kernel_calls.drop_capabilities()
        os.execvp(argv[0], argv)  # noqa: S606 - no shell
    except OSError as error:
        sys.stderr.write(f"QEMU cannot have a network namespace of its own: {error}\n")
        sys.exit(FAILED)


def _enter() -> bool:
    """Enter a network namespace, with a user namespace where we may not otherwise; return if we may."""
    try:
        kernel_calls.unshare(kernel_calls.NEW_NETWORK)
        return True
    except PermissionError:
        unshare_as_user(kernel_calls.NEW_NETWORK)
        return False


def _pass_sockets(asked: dict[str, Any]) -> None:
    """Make sockets of the namespace's loopback and pass them on, in their order."""
    with open_channel(asked["path"]) as channel, ExitStack() as stack:
        handles = []
        for form, port in asked["made"]:
            made = stack.enter_context(socket.socket(socket.AF_INET, getattr(socket, form)))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((_ADDRESS, port))
            if form == "SOCK_STREAM":
                made.listen(_BACKLOG)
            handles.append(made.fileno())
        socket.send_fds(channel, [b"l"], handles)
