"""Run a Python program confined as QEMU is, for people of all kinds; say what came of it, as JSON.

As a program: JSON of `ask` in the first argument. What is confined is the machine's Python, with PROBE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bot_bottle.host import process
from bot_bottle.vm.direct.confine import Relay, confined
from tests.support.engines import CHECKOUT

NOBODY = 65534
# the machine's own: that of the tests may be private to root
PYTHON = Path("/usr/bin/python3").resolve()

# what a Python program has at hand in there
PROBE = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def met(name, attempt):
    try:
        found[name] = attempt() or "ok"
    except OSError as failure:
        found[name] = errno.errorcode[failure.errno]
"""
END = "\njson.dump(found, sys.stdout)\n"

# No process can have another user of this namespace then, nor root CAP_SYS_ADMIN.
_BARE = """
import os, sys
from bot_bottle.vm.direct import kernel_calls
uid, *command = sys.argv[1:]
ready, go = os.pipe(), os.pipe()
child = os.fork()
if not child:
    kernel_calls.unshare(kernel_calls.NEW_USER)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    kernel_calls.prctl(24, 21)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
    if int(uid):
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *CAPABILITIES, *command]
    os.execvp(command[0], command)
os.close(ready[1])
os.read(ready[0], 1)
for kind in "ug":
    with open(f"/proc/{child}/{kind}id_map", "w") as file:
        file.write("0 0 70000\\n")
os.write(go[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
# the interpreter of these tests may be private to root
_CAPABILITIES = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def bare(uid: int) -> tuple[str, ...]:
    """What runs a command, of root's, as somebody for whom there are no namespaces."""
    return (sys.executable, "-c", _BARE.replace("CAPABILITIES", repr(_CAPABILITIES)), str(uid))


def nobody() -> tuple[str, ...]:
    """What runs a command, of root's, as an ordinary user."""
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *_CAPABILITIES)


def try_confined(folder: Path, script: str, prefix: Sequence[str] = (), **asked: Any) -> dict[str, Any]:
    """Run a script after PROBE confined to `folder`: its status, what it found and what is in force."""
    document = {"folder": str(folder), "script": PROBE + script + END, **asked}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.support.confined", json.dumps(document)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}/src:{CHECKOUT}"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert not done.returncode, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def command(script: str) -> list[str]:
    """The command line of a script for the machine's own Python."""
    return [str(PYTHON), "-I", "-S", "-c", script]


def _main(asked: Mapping[str, Any]) -> None:
    folder = Path(asked["folder"])
    paths = {name: Path(path) for name, path in asked.get("relay", {}).items()}
    ports = {int(guest): inner for guest, inner in asked.get("ports", {}).items()}
    relay = Relay(paths.get("listen"), 3128, connect=paths.get("connect"), ports=ports)
    readable = [*map(Path, asked.get("readable", ()))]
    disks = {Path(path): writable for path, writable in asked.get("disks", {}).items()}
    words = folder.with_name(f"{folder.name}.words")
    start = [*command(asked["script"]), *asked.get("arguments", ())]
    how = {"network": asked.get("network", "none"), "relay": relay, "disks": disks, "readable": readable}
    with confined(start, folder, **how) as made, words.open("wb") as output:
        with process.background(made.argv, output=output) as child:
            code = child.wait(60)
        text = words.read_text()
        found = json.loads(text) if code == 0 else {"words": text}
        force = made.in_force().described() if code == 0 else None
    json.dump({"code": code, "found": found, "force": force, "user": made.user}, sys.stdout)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
