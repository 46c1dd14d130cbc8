"""What a container's command may do: what is requested from the engine, and what is in force inside.

Root in a container has seven capabilities, every other user has none. docker adds capabilities to the
bounding set of a container, and gives them to root only; podman makes them effective and ambient for an
ordinary user too. So podman is asked to drop those of its defaults that are not needed, which leaves the
others to root. Root that joins an ordinary user's container (`exec`) has the seven too; with docker 20.10 it
has none, because of no-new-privileges.

The result is checked: before a command starts, its own /proc/self/status is read (proc_pid_status(5)), and it
tries to create a user namespace, in which it would have every capability.
"""

from __future__ import annotations

from typing import Any

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.info import part
from bot_bottle.errors import BootError, WallsError
from bot_bottle.network.probes import BUSYBOX, STATUS, Proof

# needed by package managers, su and owners of files, by number (linux/capability.h)
_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
}
_ALL = f"{sum(1 << number for number in _CAPABILITIES.values()):016x}"
_NONE = f"{0:016x}"

# by the engine's names for them, what docker says of itself
_LIMITS = {"Memory": "MemoryLimit", "PidsLimit": "PidsLimit"}
# a seccomp filter is in force (seccomp(2), SECCOMP_MODE_FILTER)
_FILTERED = "2"
_FIELDS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
_NAMESPACE = "UserNamespace"
_MOST_OUTPUT = 1 << 16  # bytes of it that are read

# for the shell that becomes the command: it has the command's privileges
SCRIPT = f"""\
while read -r key first second rest; do
  case $key in
    Uid:) echo "{STATUS}Uid $second" ;;
    {"|".join(f"{field}:" for field in _FIELDS)}) echo "{STATUS}${{key%:}} $first" ;;
  esac
done </proc/self/status
if {" ".join(BUSYBOX)} unshare -U {" ".join(BUSYBOX)} true; then
  echo "{STATUS}{_NAMESPACE} made"
else
  echo "{STATUS}{_NAMESPACE} refused"
fi
"""


def privilege_options(engine: Engine, info: dict[str, Any]) -> list[str]:
    """Return the options of `create` for capabilities; `info` is the output of the engine's `info`."""
    options = ["--security-opt=no-new-privileges"]
    if engine.name == "docker":
        return [*options, "--cap-drop=ALL", *(f"--cap-add={name}" for name in _CAPABILITIES)]
    defaults = str(part(part(info, "host"), "security").get("capabilities", "")).split(",")
    names = [name.strip().upper().removeprefix("CAP_") for name in defaults]
    return [*options, *(f"--cap-drop={name}" for name in names if name and name not in _CAPABILITIES)]


def check_seccomp(engine: Engine, info: dict[str, Any]) -> None:
    """Refuse an engine that runs containers without a seccomp filter. Raises BootError."""
    if engine.name == "podman":
        filtered = part(part(info, "host"), "security").get("seccompEnabled") is True
    else:
        options = str(info.get("SecurityOptions"))
        filtered = "name=seccomp" in options and "profile=unconfined" not in options
    if not filtered:
        raise BootError(
            f"{engine.name} runs containers without a seccomp filter here",
            next_step="enable it in the engine, or use --backend smolmachines",
        )


def check_limits(engine: Engine, info: dict[str, Any]) -> None:
    """Refuse a docker that accepts limits and does not enforce them. Raises WallsError.

    A rootless one without cgroups says nothing of it when it makes a container, and describes the container
    as if the limits were in force.
    """
    lacking = [limit for limit, key in _LIMITS.items() if engine.name == "docker" and info.get(key) is False]
    if lacking:
        raise not_in_force(engine, lacking)


def not_in_force(engine: Engine, names: list[str]) -> WallsError:
    """Return the error for an engine that does not enforce what it was asked for."""
    message = f"{engine.name} does not enforce what a bottle needs: {', '.join(names)} not in force"
    if not set(names) <= set(_LIMITS):
        return WallsError(message, next_step="use --backend smolmachines")
    return WallsError(
        message,
        why="limits need cgroups, which a rootless engine has with cgroup v2 alone, delegated to its user",
        next_step="let the engine have cgroups, or use --backend smolmachines",
    )


def judge_privileges(output: bytes) -> Proof:
    """Compare the output of SCRIPT with the expected privileges. Missing or repeated lines are errors."""
    found: dict[str, list[str]] = {}
    for line in output[:_MOST_OUTPUT].decode("ascii", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(STATUS):
            found.setdefault(name.removeprefix(STATUS), []).append(value[:32])
    own = (_NONE, _ALL) if found.get("Uid") == ["0"] else (_NONE,)
    wanted = {
        "CapInh": (_NONE,),
        "CapPrm": own,
        "CapEff": own,
        "CapBnd": (_ALL,),
        "CapAmb": (_NONE,),
        "NoNewPrivs": ("1",),
        "Seccomp": (_FILTERED,),
        _NAMESPACE: ("refused",),
    }
    values = {name: " ".join(found.get(name, ["unknown"])) for name in wanted}
    return Proof({f"{STATUS}{name}": (values[name], values[name] in wanted[name]) for name in wanted})
