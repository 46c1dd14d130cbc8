"""The container in the guest and its processes, as smolvm's agent makes them for crun.

Source: OCI runtime specification 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from bot_bottle.vm.direct.guest import ROOT, STORAGE, TOOLKIT

NAME = "bottle"
WORKSPACE = "/workspace"

_INIT = "/run/smolvm/init"
_FILES = 1_048_576  # RLIMIT_NOFILE

_CAPABILITY_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
_CAPABILITIES = [f"CAP_{name}" for name in _CAPABILITY_NAMES.split()]

_NO_DEVICES = ["nosuid", "nodev", "noexec"]
_TERMINALS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]


class User(Struct, frozen=True):
    """Who a process runs as, and the folder that is its home."""

    uid: int
    gid: int
    home: str


def process_document(
    command: Sequence[str],
    user: User,
    env: Mapping[str, str],
    workdir: str,
    *,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the document of a process. `size` is that of its terminal, rows and columns, if it has one."""
    variables = {"HOME": user.home, "TERM": "xterm-256color", **env}
    held = _CAPABILITIES if user.uid == 0 else []
    document: dict[str, Any] = {
        "terminal": size is not None,
        "user": {"uid": user.uid, "gid": user.gid},
        "args": list(command),
        "env": [f"{name}={value}" for name, value in variables.items()],
        "cwd": workdir or "/",
        "noNewPrivileges": False,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": _FILES, "hard": _FILES}],
        "capabilities": {
            "bounding": _CAPABILITIES,
            "permitted": held,
            "effective": held,
            "inheritable": [],
            "ambient": [],
        },
    }
    if size is not None:
        document["consoleSize"] = {"height": size[0], "width": size[1]}
    return document


def container_document(
    hostname: str, user: User, *, toolkit: str, bundle: str = "", workspace: str = f"{STORAGE}/workspace"
) -> dict[str, Any]:
    """Return the document of a container whose first process is smolvm's init.

    `toolkit` is where it has the tools of the probes, and in it the file `bundle` of authorities, if it has
    one; `workspace` is the guest's folder that is its own.
    """
    init = process_document((_INIT, "container-init"), user, {}, "/")
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": ROOT, "readonly": False},
        "process": init,
        "mounts": [
            _mount("/proc", "proc", "proc", *_NO_DEVICES),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "devpts", *_TERMINALS),
            _mount("/dev/shm", "tmpfs", "shm", *_NO_DEVICES, "mode=1777"),  # noqa: S108 - of the guest
            _mount("/dev/mqueue", "mqueue", "mqueue", *_NO_DEVICES),
            _mount("/sys", "sysfs", "sysfs", *_NO_DEVICES, "ro"),
            _mount("/sys/fs/cgroup", "cgroup2", "cgroup", *_NO_DEVICES),
            _mount("/run", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=755", "size=65536k"),
            _mount("/run/lock", "tmpfs", "tmpfs", *_NO_DEVICES, "size=5120k"),
            _bind("/tmp", f"{STORAGE}/tmp", "rw", "nosuid", "nodev"),  # noqa: S108 - of the guest
            _bind("/dev/net/tun", "/dev/net/tun", "rw"),
            _bind(_INIT, "/usr/local/bin/smolvm-agent", "ro"),
            _bind(WORKSPACE, workspace, "rw"),
            _bind(STORAGE, STORAGE, "rw"),
            _bind(toolkit, TOOLKIT, "ro"),
            *([_bind(f"{toolkit}/{bundle}", f"/run/{bundle}", "ro")] if bundle else []),
            _bind("/etc/hosts", "/run/hosts", "rw"),
            _bind("/etc/resolv.conf", "/run/resolv.conf", "rw"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "uts", "ipc", "pid")],
            "devices": [
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666},
                {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o644},
            ],
            "resources": {},
        },
    }


def hosts_file(hostname: str, others: Mapping[str, str]) -> str:
    """Return the container's /etc/hosts; `others` are addresses by name."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", f"127.0.1.1\t{hostname}"]
    lines += [f"{address}\t{name}" for name, address in others.items()]
    return "".join(f"{line}\n" for line in lines)


def encoded(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON; text that is not Unicode keeps its bytes."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(target: str, source: str, *options: str) -> dict[str, Any]:
    return _mount(target, "bind", source, "bind", *options)
