"""What a command finds and may do in a container: the same with docker and podman, but for what is listed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import inside
from tests.support.bottle import Bottle
from tests.support.engine_matrix import CONTAINERD, Name
from tests.support.engines import CHOSEN, Docker, Podman
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context, copy_python

# this machine's own, or those that were chosen for the whole run; and the newest
PAIRS: list[tuple[Name, Name]] = [(None, None)] if CHOSEN else [(None, None), (CONTAINERD, "podman-5.8")]
ROWS = [pytest.param(*pair, marks=[pytest.mark.slow] if any(pair) else []) for pair in PAIRS]

# a pattern of what may differ, and why it is no matter, or cannot be made equal
EXPECTED = {
    "bind to port 80": "docker lets every user of a container have the low ports of the container's network",
    "value /proc/sys/net/ipv4/ip_unprivileged_port_start": "see there",
    "value /proc/sys/net/ipv4/ping_group_range": "docker lets every user of a container ping in its network",
    "value /proc/sys/net/ipv6/conf/[a-z]+/disable_ipv6": "docker turns IPv6 off where only loopback is",
    "call (310|311)": "process_vm_readv, _writev: newer docker lets both through, as it lets ptrace",
    "call (329|330|331)": "pkey_*, of a process's own memory: newer docker lets them through",
    "call (278|333)": "vmsplice, io_pgetevents: podman lets fewer through than docker",
    "call (425|426|427)": "io_uring: docker before 25 lets it through, and its profile cannot be narrowed",
    "call 303": "name_to_handle_at: newer docker lets it through, not the call that opens a handle",
    "call (449|45[1-8]|46[2-6])": "futex_waitv, cachestat to removexattrat: younger than the profile of one",
    "cgroup": "each engine names the container's cgroup in its own way",
    "limit RLIMIT_NPROC": "podman is given one that can be had; --pids-limit holds both",
    "mount /(dev|proc/[a-z_]+)": "what podman mounts there has noexec besides",
    "mount /etc/resolv.conf|mount /run/.containerenv": "each engine mounts files of its own",
    "mount /run/podman-init|mount /s?bin/docker-init|mount /dev/init": "each engine has an init of its own",
    "other programs": "see there",
    "mount /sys/(dev/block|devices/virtual/powercap)": "podman masks the numbers of disks, docker power caps",
    "nice": "podman's containers are children of who runs them",
    "read /proc/interrupts": "masked by newer engines: how often each device interrupts",
    "socket family 40": "AF_VSOCK, to a hypervisor: docker before 23 and podman before 5 let it through",
    "status SigBlk": "podman's init leaves the signals of job control blocked",
    "variables": "podman sets container and TERM",
}
# these are what a command is kept from: they hold in each engine, whatever the other does
HELD = {
    "status NoNewPrivs": "1",
    "status Seccomp": "2",
    "make a device": "EPERM",
    "change root": "EPERM",
    "set the host name": "EPERM",
    "be nicer": "EPERM",
    "raise a limit": "EPERM",
    "get the session's keyring": "EPERM",
    "make a session keyring": "EPERM",
    **{f"new namespace {name}": "EPERM" for name in inside.NAMESPACES},
}
# mount, umount2, pivot_root, fsopen, fsmount, fsconfig, move_mount, open_tree, mount_setattr, setns, unshare,
# clone3, bpf, open_by_handle_at, init_module, finit_module, kexec_load, perf_event_open, userfaultfd,
# add_key, request_key, keyctl, pidfd_getfd, mbind, set_mempolicy
REFUSED = (
    *(165, 166, 155, 430, 432, 431, 429, 428, 442, 308, 272),
    *(435, 321, 304, 175, 313, 246, 298, 323, 248, 249, 250, 438, 237, 238),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context of an image that has a Python and the program."""
    made = tmp_path_factory.mktemp("inside")
    lines = BOTTLE_DOCKERFILE.replace("ENTRYPOINT", "COPY inside.py /inside.py\nENTRYPOINT")
    busybox_context(made, lines)
    copy_python(made / "rootfs")
    (made / "inside.py").write_bytes(Path(inside.__file__).read_bytes())
    return made


@pytest.fixture(scope="module")
def images(docker: Docker, podman: Podman, folder: Path) -> dict[str, str]:
    """The image in each engine."""
    return {"docker": docker.build(folder), "podman": podman.build(folder)}


def found(bottle: Bottle, engine: str, image: str, user: str) -> dict[str, str]:
    argv = ("run", "-q", "--backend=docker", f"--engine={engine}", f"--user={user}", "--name=inside")
    done = bottle(*argv, "--image", image, "--", "/python/bin/python3", "-I", "-S", "-B", "/inside.py")
    assert done.code == 0, done
    facts: dict[str, str] = json.loads(done.out)
    return facts


@pytest.mark.parametrize(("docker", "podman"), ROWS, indirect=True, scope="session", ids=map(str, PAIRS))
@pytest.mark.parametrize("user", ["0", "agent"])
def test_a_command_may_do_the_same_with_docker_and_podman(
    bottle: Bottle, podman: Podman, images: dict[str, str], user: str
) -> None:
    with_podman = replace(bottle, changes={**bottle.changes, **podman.variables})
    here = found(bottle, "docker", images["docker"], user)
    there = found(with_podman, "podman", images["podman"], user)
    for facts in (here, there):
        assert HELD.items() <= facts.items(), HELD.items() - facts.items()
        assert facts.get("read /proc/kcore", "empty") == "empty", "not every kernel has it"
        assert {facts[f"call {number}"] for number in REFUSED} == {"refused"}
        assert not [name for name in facts if name.startswith(("write /sys/", "write /proc/sys/"))]
        for name in ("ipc", "mnt", "net", "pid", "uts"):
            assert facts.pop(f"namespace {name}") != str(Path(f"/proc/self/ns/{name}").readlink()), name
        facts.pop("namespace pid_for_children")
    listed = re.compile("|".join(f"(?:{pattern})" for pattern in EXPECTED))
    differences = {
        name: (here.get(name), there.get(name))
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name) and not listed.fullmatch(name)
    }
    assert differences == {}


def test_an_ordinary_user_writes_nowhere_but_where_all_may(bottle: Bottle, images: dict[str, str]) -> None:
    facts = found(bottle, "docker", images["docker"], "agent")
    for name in ("write to /", "write to /root"):
        assert facts[name] == "EACCES"
    assert facts["own another's file"] == "EPERM"
