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
LABEL = "bot-bottle.test"
OWNER = f"{os.getpid()}-{start_time(os.getpid())}"


def call(argv: list[str], env: dict[str, str], input: bytes | None = None) -> bytes:
    """Run a program and give its standard output; its words are in the error when it fails."""
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

    def build(self, context: Path, *args: str) -> str:
        """Build an image and give its id. It is removed when the test run ends."""
        env = {**self.env, **self._builder}
        labelled = ["docker", "build", "--quiet", "--label", f"{LABEL}={OWNER}", *args, str(context)]
        return call(labelled, env).decode().strip()

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
        listing = self.docker("image", "inspect", "--format", shown, *ids).decode() if ids else ""
        for line in listing.splitlines():
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

    def podman(self, *args: str, input: bytes | None = None) -> bytes:
        """Run podman."""
        return call(["podman", *args], self.env, input)

    def build(self, context: Path, *args: str) -> str:
        """Build an image and give its id."""
        return self.podman("build", "--quiet", *podman_limits(), *args, str(context)).decode().strip()


@contextmanager
def private_docker() -> Iterator[Docker]:
    """Hold the engine that answers, or a private one that `scripts/engine` starts."""
    script = [str(CHECKOUT / "scripts" / "engine"), "run", "--", "sh", "-c", 'echo "$DOCKER_HOST"; exec cat']
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        host = holder.stdout.readline().decode()
        assert host, "scripts/engine gave no engine; its reason is above"
        docker = Docker({"DOCKER_HOST": host.strip()} if host.strip() else {})
        docker.remove_leftovers()
        try:
            yield docker
        finally:
            docker.remove_leftovers()
            holder.stdin.close()  # ends the holder, and with it the engine's last use


@contextmanager
def private_podman() -> Iterator[Podman]:
    """Give podman a storage and settings of its own, so that the user's are neither read nor changed."""
    folder = Path(tempfile.mkdtemp(prefix="bot-bottle-podman-"))
    storage, registries, settings = (folder / name for name in ("storage.conf", "registries.conf", "c.conf"))
    storage.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/run"\n'
    )
    registries.write_text("unqualified-search-registries = []\n")
    settings.write_text('[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    policy = folder / "home" / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    variables = {
        "HOME": str(folder / "home"),
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
        "CONTAINERS_CONF": str(settings),
        "BUILDAH_ISOLATION": "chroot",  # a build needs no cgroups then
        "TMPDIR": str(folder),
    }
    try:
        yield Podman(folder, variables)
    finally:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False, timeout=30)
        shutil.rmtree(folder)
