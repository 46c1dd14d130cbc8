"""podman's seccomp profile, restricted to what docker's allows.

podman's own profile lets every command create user namespaces, in which it has all capabilities, and mount
file systems there: that reaches much of the kernel that a container of docker cannot. These calls are removed
from the engine's own profile, so that its other rules, and changes by an administrator, stay. The format is
the one of the runtime specification (config-linux, `seccomp`), with the extensions of the engines.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.info import part
from bot_bottle.errors import BootError

_MOST = 4 << 20  # bytes of a profile

# docker reserves these for CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or refuses
# them
_REFUSED = frozenset(
    {
        *("fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount"),
        *("open_tree", "open_tree_attr", "pivot_root", "umount", "umount2"),
        *("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
        *("keyctl", "name_to_handle_at", "pidfd_getfd", "setns", "unshare"),
    }
)
# clone(2): mount, cgroup, uts, ipc, user, pid, network. The flags of clone3 are in memory that a filter
# cannot read
_NEW_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


def _clone(action: str, mask: int, value: int) -> dict[str, Any]:
    compared = {"index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return {"names": ["clone"], "action": action, "args": [compared]}


_ADDED: tuple[dict[str, Any], ...] = (
    {"names": sorted(_REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    _clone("SCMP_ACT_ALLOW", sum(_NEW_NAMESPACES), 0),
    *({**_clone("SCMP_ACT_ERRNO", flag, flag), "errnoRet": errno.EPERM} for flag in _NEW_NAMESPACES),
)


def seccomp_options(engine: Engine, info: dict[str, Any], folder: Path) -> list[str]:
    """Return the options of `create` for the filter; a profile that they name is written to `folder`.

    `info` is the output of the engine's `info`. Raises BootError if podman's profile cannot be read.
    """
    if engine.name != "podman":
        return []
    own = str(part(part(info, "host"), "security").get("seccompProfilePath") or "")
    try:
        if not own:
            raise ValueError("podman reports no file with it")
        with Path(own).open("rb") as file:
            profile = narrowed(json.loads(file.read(_MOST)))
    except (OSError, ValueError, RecursionError) as error:
        raise BootError(
            "podman's seccomp profile cannot be restricted",
            why=f"{own or 'no file'}: {getattr(error, 'strerror', None) or error}",
            next_step="install the package that has /usr/share/containers/seccomp.json "
            "(Debian: golang-github-containers-common), or use --backend smolmachines",
        ) from error
    path = folder / "seccomp.json"
    path.write_text(json.dumps(profile))
    return [f"--security-opt=seccomp={path}"]


def narrowed(profile: Any) -> dict[str, Any]:
    """Return a profile that also refuses what docker's refuses. Raises ValueError for an invalid one."""
    rules = profile.get("syscalls") if isinstance(profile, dict) else None
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError("not a seccomp profile")
    if profile.get("defaultAction") not in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS"):
        raise ValueError("its default is to allow")
    kept = []
    for rule in rules:
        names = rule.get("names")
        if not isinstance(names, list):
            raise ValueError("a rule of it has no names")
        if left := [name for name in names if name not in _REFUSED and name not in ("clone", "clone3")]:
            kept.append({**rule, "names": left})
    return {**profile, "syscalls": [*kept, *_ADDED]}
