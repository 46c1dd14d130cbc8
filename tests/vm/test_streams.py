"""What goes into a bottle's command and comes out of it: streams, statuses, users, variables, files."""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.backend_suite import Attach, Suite
from tests.support.canary import Canary
from tests.support.engines import Docker

from bot_bottle.host.redact import Secret
from bot_bottle.vm.emulated.channel import END
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


def test_values_arrive_whole_and_the_host_of_smolvm_has_them_nowhere(
    attach: Attach, inside: Callable[[str], int], canary: Canary
) -> None:
    """What smolvm's own processes and files hold, on the machine that it runs on."""
    values = {"KEY": Secret(canary.path.read_text().rstrip("\n")), "LARGE": Secret("x" * 65536)}
    script = 'printf %s "$KEY" | sha256sum; printf %s "$LARGE" | wc -c; sleep 300'
    half = len(canary.value) // 2
    parts = canary.value[:half].decode(), canary.value[half:].decode()
    # a zero byte ends a line for that grep
    search = "printf '%s%s\\n' {} {} > /run/pattern; cat {} | tr '\\0' '\\n' | grep -q -f /run/pattern"
    runs = search.format("sha2", "56sum", "/proc/[0-9]*/cmdline")
    steps = [
        f"until {{ {runs}; }}; do sleep 1; done; sleep 5",
        search.format(*parts, "/proc/[0-9]*/cmdline /proc/[0-9]*/environ"),
        runs,  # it was there to be searched
        search.format(*parts, "$(find /root -type f -size -20000k)"),
        END,
    ]
    with ThreadPoolExecutor() as pool:
        searched = pool.submit(lambda: [inside(step) for step in steps])
        assert attach("sh", "-c", script, secrets=values).out.split() == [canary.sha256, b"-", b"65536"]
        assert searched.result(60) == [0, 1, 0, 1, 0]


def test_a_command_that_is_not_there_keeps_nobody_waiting(attach: Attach) -> None:
    assert attach("no-such-command", secrets={"KEY": Secret("canary-value")}).code == 127
