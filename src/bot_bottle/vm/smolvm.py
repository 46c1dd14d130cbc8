"""Which smolvm to use, and its command lines. Another product has the same name.

The program is found by `BOT_BOTTLE_SMOLVM`, else on PATH if it is recent enough, else in the PyPI package
`smolmachines`. Everything about how smolvm 1.32 behaves that shapes a command line is decided here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from bot_bottle.errors import SmolvmError
from bot_bottle.host import paths, process
from bot_bottle.host.process import CommandFailed
from bot_bottle.host.progress import Progress
from bot_bottle.vm.package import package_folder, prepare_installation

MINIMUM = (1, 32, 0)

# the plain command line leaves both off; a bottle never runs without them
HARDENING = {"SMOLVM_SECCOMP": "enforce", "SMOLVM_LANDLOCK": "enforce"}

# root's monitor gets a user of its own, who may not write to a folder of root; a machine that shares one runs
# as its caller instead, without capabilities
AS_CALLER = {"SMOLVM_VM_UID_DROP": "off"}

# smolvm's message when the guest ended before its agent answered
GUEST_ENDED = "before the agent was ready"

# its messages when the guest ended later
GUEST_GONE = ("connection closed", "is not running")

_SOCKET_PATH_MAX = 107  # bytes: unix(7), sun_path, less its NUL

# variables of the user's environment that would change a bottle's network or redirect its state
_FOREIGN = re.compile(r"SMOLVM_|SMOL_")


class Smolvm(Struct, frozen=True):
    """A smolvm command that answered: its path, its version, and its environment."""

    program: Path
    version: str
    origin: str
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the whole environment of a smolvm process: ours, less what would change what it does."""
        clean = {key: value for key, value in os.environ.items() if not _FOREIGN.match(key)}
        return {**clean, **HARDENING, **self.env, **(extra or {})}

    @property
    def is_ours(self) -> bool:
        """Whether its state is in our cache folder, and not with the user's own machines."""
        return "XDG_CACHE_HOME" in self.env

    def packs_archives(self) -> bool:
        """Return whether `pack create` accepts an image archive. 1.22 only takes registry references."""
        argv = [str(self.program), "pack", "create", "--help"]
        return "docker save" in process.run(argv, timeout=15, check=False, env=self.environment()).text


def find_smolvm(progress: Progress) -> Smolvm:
    """Return a smolvm that is ready to run. Raises SmolvmError, which says what was found instead."""
    if named := os.environ.get("BOT_BOTTLE_SMOLVM"):
        return asked(Path(named), "BOT_BOTTLE_SMOLVM", {})
    on_path = process.find("smolvm")
    if on_path is not None:
        try:
            return asked(on_path, "PATH", {})
        except SmolvmError:
            if package_folder() is None:
                raise
    ready = prepare_installation(progress)
    env = {"SMOLVM_LIB_DIR": str(ready.folder), "SMOLVM_AGENT_ROOTFS_TAR": str(ready.agent_archive)}
    env |= state_environment(paths.machines_dir())
    return asked(ready.program, "package smolmachines", env)


def state_environment(folder: Path) -> dict[str, str]:
    """Return the variables that make smolvm store everything in `folder`, unless its path is too long.

    smolvm puts sockets 46 bytes below it, and a socket's path has 107 at most; it would refuse to start a
    machine. Then it uses its usual folders of the user.
    """
    if len(os.fsencode(folder)) > _SOCKET_PATH_MAX - len("/smolvm/vms/0123456789abcdef/port-forward.sock"):
        return {}
    return dict.fromkeys(("XDG_CACHE_HOME", "XDG_DATA_HOME"), str(folder))


def asked(program: Path, origin: str, env: dict[str, str]) -> Smolvm:
    """Ask a program for its name and version. Raises SmolvmError unless it is a recent smolvm."""
    candidate = Smolvm(program, "", origin, env)
    try:
        done = process.run([str(program), "--version"], timeout=15, env=candidate.environment())
    except CommandFailed as error:
        raise SmolvmError(
            f"{program} does not run", why=error.why, next_step=f"correct {origin}, where it was found"
        ) from error
    found = re.fullmatch(r"smolvm (\d+)\.(\d+)\.(\d+)\S*", done.text)
    pack_help = process.run(
        [str(program), "pack", "--help"], timeout=15, check=False, env=candidate.environment()
    )
    if found is None or pack_help.code:
        raise SmolvmError(
            f"{program} is another product that is also named smolvm",
            why=f"its name and version: {done.text[:200]}",
            next_step="put smolvm of smolmachines first on PATH, or set BOT_BOTTLE_SMOLVM to it",
        )
    version = ".".join(found.groups())
    if tuple(int(part) for part in found.groups()) < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise SmolvmError(
            f"{program} is smolvm {version}; {needed} or newer is needed",
            next_step="upgrade it, or remove it from PATH: the package smolmachines contains one",
        )
    return Smolvm(program, version, origin, env)


def create_argv(
    artifact: str,
    name: str,
    *,
    cpus: int,
    memory_mib: int,
    storage_mib: int | None = None,
    labels: Mapping[str, str],
    volumes: Sequence[str] = (),
    network: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return `machine create` for an artifact; without options for the network it has none.

    `storage_mib` are whole GiB. `volumes` are FOLDER:GUEST-PATH, with `:ro` for a read-only one.

    smolvm starts the image's own command at every boot, and a bottle runs its command attached, so it would
    run twice. `/proc/self/exe` is a command that exists in every image, even an empty one: the guest's own
    init, which exits at once.
    """
    argv = ["machine", "create", "--error-format", "json", "--from", artifact, "--name", name]
    argv += ["--cpus", str(cpus), "--mem", str(memory_mib)]
    argv += [] if storage_mib is None else ["--storage", str(storage_mib >> 10)]
    for key, value in labels.items():
        argv += ["--label", f"{key}={value}"]
    argv += [word for volume in volumes for word in ("-v", volume)]
    return (*argv, *network, "--", "/proc/self/exe", "--version")


def start_argv(name: str, interceptor: str = "") -> tuple[str, ...]:
    """Return `machine start`; with an interceptor (ADDRESS:PORT) its token has to be in the environment."""
    argv = ("machine", "start", "--error-format", "json", "--name", name)
    return (*argv, "--egress-interceptor", interceptor) if interceptor else argv


def exec_argv(
    name: str,
    command: Sequence[str],
    *,
    tty: bool,
    user: str,
    workdir: str,
    env_names: Sequence[str] = (),
    secrets: Mapping[str, str] | None = None,
    empty: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return `machine exec`. Variables go by name: their values are in the environment, never in argv.

    The values of `secrets` are not even there: smolvm reads each from the path that is given, since the
    environment of a process can be read as long as it runs. Variables in `empty` are set to "", whatever the
    image says.

    Without `-i` smolvm forwards no input and holds back output up to a limit, so it is always there.
    """
    argv = ["machine", "exec", "--error-format", "text" if tty else "json", "--name", name, "-i"]
    argv += ["-t"] if tty else []
    argv += ["-u", user] if user else []
    argv += ["-w", workdir] if workdir else []
    argv += [word for variable in empty for word in ("-e", f"{variable}=")]
    for variable in env_names:
        argv += ["--secret-env", f"{variable}={carrier_variable(variable)}"]
    for variable, path in (secrets or {}).items():
        argv += ["--secret-file", f"{variable}={path}"]
    return (*argv, "--", *command)


def carrier_variable(variable: str) -> str:
    """Return the host variable that transports a guest variable: a guest's PATH must not be smolvm's."""
    return f"BOTTLE_ENV_{variable}"


def status_argv(name: str) -> tuple[str, ...]:
    """Return `machine status`: the machine's settings and state, as JSON."""
    return ("machine", "status", "--error-format", "json", "--name", name, "--json")


def events_argv(name: str) -> tuple[str, ...]:
    """Return `machine egress-events`: the newest connections that the machine was refused, as JSON."""
    return ("machine", "egress-events", "--error-format", "json", "--name", name, "--json", "--limit", "1000")


def update_argv(name: str, network: Sequence[str]) -> tuple[str, ...]:
    """Return `machine update` for further rules of what a machine may reach; they apply at once."""
    return ("machine", "update", "--error-format", "json", "--name", name, *network)


def delete_argv(name: str) -> tuple[str, ...]:
    """Return `machine delete`, which also ends a machine that runs."""
    return ("machine", "delete", "--error-format", "json", "-f", "--name", name)


def prune_argv() -> tuple[str, ...]:
    """Return `pack prune`, which keeps a few unpacked artifacts, so that the next boot of one is quick."""
    return ("pack", "prune", "--error-format", "json", "--keep", "3")
