"""What goes into a bottle's command and comes out of it: streams, statuses, users, variables, files."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.backend_suite import Attach, Suite
from tests.support.bottle import wait_until
from tests.support.canary import Canary, holders
from tests.support.engines import Docker

from bot_bottle.backend import base
from bot_bottle.backend.direct.bottle import DirectBottle
from bot_bottle.errors import TimeLimitError
from bot_bottle.host.redact import Secret
from bot_bottle.vm.direct.machine import Machine
from bot_bottle.workspace.lifecycle import before_command

# type, mode, owner, size, name and link target of every entry, then which names are one file, then the files'
# hashes: the same program in the container and in the microVM. A folder's size is its file system's own
# affair, and so is a count of links: overlayfs counts those of the layers below. Left out are the files of
# name look-up, which docker and smolvm put there themselves.
LISTING = r"""
cd /
find t home bin etc usr root var -xdev ! -path etc/hosts ! -path etc/hostname \
  ! -path etc/resolv.conf ! -path etc/gai.conf ! -path etc/mtab -print0 |
  sort -z > /tmp/names
xargs -0 stat -c '%F|%a|%u:%g|%s|%N' < /tmp/names | sed -e 's/^\(directory|[^|]*|[^|]*\)|[^|]*|/\1|/'
for one in t/*; do for other in t/*; do
  if [ ! -L "$one" ] && [ "$one" != "$other" ] && [ "$one" -ef "$other" ]; then echo "$one is $other"; fi
done; done
find t home usr root var -xdev -type f -print0 | sort -z | xargs -0 sha256sum
"""


class TestMicroVM(Suite):
    """What a microVM does as every backend does it."""


def test_the_guest_has_a_kernel_of_its_own_and_no_network(attach: Attach) -> None:
    done = attach("sh", "-c", "uname -r; ls /sys/class/net; cat /proc/net/route | wc -l")
    kernel, *interfaces, routes = done.out.decode().split()
    assert kernel != platform.release()
    assert set(interfaces) <= {"lo", "dummy0"}
    assert routes == "1"  # the heading alone


def test_what_runs_before_the_command_leaves_its_streams(attach: Attach) -> None:
    before = before_command({"postStartCommand": {"a": "cat; echo said; touch /tmp/started"}})
    done = attach("sh", "-c", "ls /tmp/started; cat", stdin=b"in\n", before=before)
    assert (done.code, done.out) == (0, b"/tmp/started\nin\n")
    assert b"said" in done.err
    failing = attach("echo", "not this", before=before_command({"postStartCommand": "exit 6"}))
    assert (failing.code, failing.out) == (6, b"")
    assert b"postStartCommand failed with exit status 6" in failing.err


def test_a_command_that_takes_too_long_is_ended_and_its_machine_goes_on(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_GRACE", 1.0)
    for script in ("while :; do sleep .1; done", "trap '' TERM; while :; do sleep .1; done"):
        with pytest.raises(TimeLimitError, match="longer than 1s"):
            attach("sh", "-c", script, timeout=1)
    assert attach("sh", "-c", "ps -o args | grep -c '[w]hile'").out == b"0\n"


def test_every_file_is_as_docker_has_it(attach: Attach, docker: Docker, image: str) -> None:
    there = docker.docker(
        "run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", image, "-c", LISTING
    )
    here = attach("sh", "-c", LISTING, user="0").out
    assert b"/t/third" not in there  # the names are relative
    assert b"t/third" in there
    assert b"t/original is t/third\n" in there
    assert b"t/gone" not in there
    # smolvm refuses links to the root and over it; what they mean is written in another form
    rewritten = (b"'t/over' -> ", b"'t/to-root' -> ")

    def kept(listing: bytes) -> list[bytes]:
        return [line for line in listing.splitlines() if not any(name in line for name in rewritten)]

    assert kept(here) == kept(there)


def test_a_command_after_the_bottles_own_has_its_user_and_its_files(
    attach: Attach, running: DirectBottle
) -> None:
    attach("sh", "-c", 'echo left > "$HOME/left"')
    after = running.run_after(("sh", "-c", 'cat "$HOME/left"; id -u; exit 3'))
    assert (after.code, after.stdout) == (3, b"left\n1000\n")


def test_values_arrive_whole_and_are_in_no_process_and_no_file_of_this_machine(
    attach: Attach, running: DirectBottle, canary: Canary
) -> None:
    values = {"KEY": Secret(canary.path.read_text().rstrip("\n")), "LARGE": Secret("x" * 65536)}
    tell = 'printf %s "$KEY" | sha256sum; printf %s "$LARGE" | wc -c'
    script = f"{tell}; touch /tmp/there; until [ -e /tmp/searched ]; do sleep 0.1; done"
    with ThreadPoolExecutor() as pool:
        found = pool.submit(searched, running._machine, canary)
        assert attach("sh", "-c", script, secrets=values).out.split() == [canary.sha256, b"-", b"65536"]
        assert found.result(60) == []


def searched(machine: Machine, canary: Canary) -> list[str]:
    """Where the value is while the command runs: on this machine, and on command lines in the guest."""
    wait_until(lambda: machine.script("[ -e /storage/tmp/there ]", 20) == 0, 60)
    found = [*holders(canary.value), *canary.places(machine.folder)]
    half = len(canary.value) // 2
    parts = f"{canary.value[:half].decode()} {canary.value[half:].decode()}"
    # a zero byte ends a line for that grep
    search = f"printf %s%s {parts} >/run/p; cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -q -F -f /run/p"
    found += ["a command line in the guest"] if machine.script(search, 20) == 0 else []
    machine.script("touch /storage/tmp/searched", 20)
    return found


def test_a_command_that_is_not_there_keeps_nobody_waiting(attach: Attach) -> None:
    assert attach("no-such-command", secrets={"KEY": Secret("canary-value")}).code == 127
