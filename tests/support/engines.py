"""Real container engines for tests, and the images they build there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bot_bottle.engine.limits import podman_limits
from bot_bottle.host.process_tree import start_time

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "scripts" / "engine"
CHOSEN = os.environ.get("BOT_BOTTLE_TEST_ENGINE", "")  # the tests run on this engine alone
LABEL = "bot-bottle.test"
OWNER = f"{os.getpid()}-{start_time(os.getpid())}"


def call(argv: list[str], env: dict[str, str], input: bytes | None = None) -> bytes:
    """Run a program and return its standard output; its words are in the error when it fails."""
    done = subprocess.run(argv, env=env, input=input or b"", capture_output=True, timeout=300)
    if done.returncode:
        words = (done.stderr or done.stdout).decode("utf-8", "replace")
        raise AssertionError(f"{argv} ended with {done.returncode}:\n{words}")
    return done.stdout


@dataclass(frozen=True)
class Docker:
    """The Docker engine of this test run."""

    variables: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        """The whole environment for a program that is to use this engine."""
        return {**os.environ, **self.variables}

    def docker(self, *args: str, input: bytes | None = None) -> bytes:
        """Run the docker client."""
        return call(["docker", *args], self.env, input)

    client = docker

    def build(self, context: Path, *args: str) -> str:
        """Build an image and give its id. It is removed when the test run ends."""
        env = {**self.env, **self._builder}
        labelled = ["docker", "build", "--quiet", "--label", f"{LABEL}={OWNER}", *args, str(context)]
        return call(labelled, env).decode().strip()

    @cached_property
    def containerd_store(self) -> bool:
        """Tell whether its images lie in containerd's store."""
        status = self.docker("info", "--format", "{{json .DriverStatus}}").decode()
        return "io.containerd.snapshotter" in status

    @cached_property
    def _builder(self) -> dict[str, str]:
        # a client of 23 or newer has BuildKit only through the buildx plugin; older ones have it built in
        version = call(["docker", "version", "--format", "{{.Client.Version}}"], self.env).decode()
        if int(version.split(".")[0]) < 23:
            return {"DOCKER_BUILDKIT": "1"}
        plugin = subprocess.run(
            ["docker", "buildx", "version"], env=self.env, capture_output=True, timeout=30
        )
        return {} if plugin.returncode == 0 else {"DOCKER_BUILDKIT": "0"}

    def remove_leftovers(self) -> None:
        """Remove the images of this test run, and those of runs that were killed."""
        shown = f'{{{{.ID}}}} {{{{index .Config.Labels "{LABEL}"}}}}'
        ids = sorted(set(self.docker("image", "ls", "-aq", "--filter", f"label={LABEL}").decode().split()))
        # another process may remove some of them now: the others are listed all the same
        argv = ["docker", "image", "inspect", "--format", shown, *ids]
        listing = subprocess.run(argv, env=self.env, capture_output=True, timeout=60).stdout if ids else b""
        for line in listing.decode().splitlines():
            image, _, owner = line.partition(" ")
            pid, _, started = owner.partition("-")
            if owner == OWNER or not started or start_time(int(pid)) != started:
                subprocess.run(
                    ["docker", "image", "rm", "--force", image], env=self.env, capture_output=True, timeout=60
                )


@dataclass(frozen=True)
class Podman:
    """podman with a storage of its own, which goes when the test run ends."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The whole environment for a program that is to use this podman."""
        return {**os.environ, **self.variables}

    @cached_property
    def buildah_env(self) -> dict[str, str]:
        """Return the environment for buildah, with a storage of its own.

        podman writes into its storage which network program it uses, and buildah then wants the same one,
        which a machine whose buildah is of another version may not have.
        """
        return {**self.env, "CONTAINERS_STORAGE_CONF": str(_storage(self.folder, "buildah"))}

    def podman(self, *args: str, input: bytes | None = None) -> bytes:
        """Run podman."""
        return call(["podman", *args], self.env, input)

    client = podman

    def build(self, context: Path, *args: str) -> str:
        """Build an image and give its id."""
        return self.podman("build", "--quiet", *podman_limits(), *args, str(context)).decode().strip()


_used: set[str] = set()  # addresses of the engines that this process uses


@contextmanager
def private_docker(name: str = "", copy: str = "") -> Iterator[Docker]:
    """Hold the engine of that name; without one that which answers, or one of this machine's docker.

    With `copy`, hold another engine of the same kind, which belongs to those who name the same copy.
    """
    with _held([*_chosen(name, "docker"), *(["--copy", copy] if copy else [])]) as variables:
        docker = Docker(variables)
        address = variables.get("DOCKER_HOST", "")
        if address in _used:  # what was built there is in use until the outer block ends
            yield docker
            return
        docker.remove_leftovers()
        _used.add(address)
        try:
            yield docker
        finally:
            _used.discard(address)
            docker.remove_leftovers()


def client_variables(name: str) -> dict[str, str]:
    """Return what is changed in the environment for the docker client of an engine, and for its plugins."""
    with _held(["--client", name]) as variables:
        return variables


def _chosen(name: str, kind: str) -> list[str]:
    chosen = name or (CHOSEN if CHOSEN.startswith(kind) else "")
    return ["--engine", chosen] if chosen else []


@contextmanager
def _held(options: list[str]) -> Iterator[dict[str, str]]:
    """Hold an engine of scripts/engine, and give its address and what else it changes in the environment."""
    names = ("DOCKER_HOST", "DOCKER_CONFIG", "PATH")
    said = "; ".join(f'echo "${name}"' for name in names)
    script = [str(SCRIPT), "run", *options, "--", "sh", "-c", f"{said}; exec cat"]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        values = [holder.stdout.readline() for _ in names]
        assert all(values), "scripts/engine gave no engine; its reason is above"
        variables = {name: value.rstrip("\n") for name, value in zip(names, values, strict=True)}
        address = {name: value for name, value in variables.items() if value and name == "DOCKER_HOST"}
        others = {name: value for name, value in variables.items() if value != os.environ.get(name, "")}
        try:
            yield address | others
        finally:
            holder.stdin.close()  # ends the holder, and with it the engine's last use


@contextmanager
def private_podman(name: str = "") -> Iterator[Podman]:
    """Give a podman, by its name or this machine's, a storage and settings of its own.

    The user's are neither read nor changed.
    """
    folder = Path(tempfile.mkdtemp(prefix="bot-bottle-podman-"))
    registries, settings = folder / "registries.conf", folder / "c.conf"
    registries.write_text("unqualified-search-registries = []\n")
    settings.write_text('[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    policy = folder / "home" / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    variables = {
        "HOME": str(folder / "home"),
        "CONTAINERS_STORAGE_CONF": str(_storage(folder, "podman")),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
        "CONTAINERS_CONF": str(settings),
        "BUILDAH_ISOLATION": "chroot",  # a build needs no cgroups then
        "TMPDIR": str(folder),
    }
    if chosen := _chosen(name, "podman"):
        with _held(chosen) as changed:
            variables["PATH"] = changed["PATH"]
    try:
        yield Podman(folder, variables)
    finally:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, timeout=30)
        shutil.rmtree(folder)


def _storage(folder: Path, name: str) -> Path:
    """Write the settings of a storage in `folder`, and return their file."""
    settings, place = folder / f"{name}-storage.conf", folder / name
    settings.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/root"\nrunroot = "{place}/run"\n'
    )
    return settings
