"""What goes into a bottle's command and comes out of it: streams, statuses, users, variables, files."""

from __future__ import annotations

import hashlib
import os
import platform

import pytest
from tests.support.engines import Docker
from tests.vm.conftest import Attach

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


def test_the_guest_has_a_kernel_of_its_own_and_no_network(attach: Attach) -> None:
    done = attach("sh", "-c", "uname -r; ls /sys/class/net; cat /proc/net/route | wc -l")
    kernel, *interfaces, routes = done.out.decode().split()
    assert kernel != platform.release()
    assert set(interfaces) <= {"lo", "dummy0"}
    assert routes == "1"  # the heading alone


def test_the_images_own_command_runs_once_with_its_user_and_variables(attach: Attach) -> None:
    assert attach().out.decode().splitlines() == ["ran", "from cmd"]
    shown = attach("sh", "-c", 'id -u; id -g; pwd; echo "$GREETING|$QUOTE|${EMPTY-unset}|$PATH|$HOME"')
    seen = 'two words|it"s||/usr/bin:/bin|/home/agent'
    assert shown.out.decode().splitlines() == ["1000", "1000", "/home/agent", seen]


def test_options_go_over_the_image(attach: Attach) -> None:
    env = {"GREETING": "other 'words' é=\n2nd", "MORE": "1"}
    done = attach(
        "sh", "-c", 'id -u; pwd; printf "%s|%s" "$GREETING" "$MORE"', env=env, user="0", workdir="/t"
    )
    assert done.out.decode() == "0\n/t\nother 'words' é=\n2nd|1"


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exit 1", 1), ("exit 255", 255)],
)
def test_the_status_is_the_commands_own(attach: Attach, script: str, status: int) -> None:
    assert attach("sh", "-c", script).code == status


def test_a_command_that_is_not_there_or_cannot_run(attach: Attach) -> None:
    missing = attach("no-such-command")
    assert missing.code == 127
    assert b"no-such-command" in missing.err
    assert attach("/etc").code == 126


def test_input_arrives_whole_and_the_streams_stay_apart(attach: Attach) -> None:
    data = os.urandom(3_000_001)
    done = attach("sh", "-c", "sha256sum; echo of-error >&2", stdin=data)
    assert done.out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert done.err == b"of-error\n"


def test_input_that_is_not_read_keeps_nobody_waiting(attach: Attach) -> None:
    assert attach("sh", "-c", "exit 3", stdin=bytes(5_000_000)).code == 3


def test_twenty_megabytes_come_out_unharmed(attach: Attach) -> None:
    done = attach("sh", "-c", "head -c 20000000 /dev/urandom > /tmp/r; sha256sum < /tmp/r >&2; cat /tmp/r")
    assert len(done.out) == 20_000_000
    assert hashlib.sha256(done.out).hexdigest() == done.err.split()[0].decode()


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
