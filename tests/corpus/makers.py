"""Makers of images: each makes the image of some steps, a layer for every step, and saves it its own way."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bot_bottle.engine.limits import podman_limits
from tests.corpus.scenarios import Add, Run, Step, base
from tests.support.crafted import layer
from tests.support.engine_matrix import docker_clients
from tests.support.engines import LABEL, OWNER, Docker, Podman, call

Maker = Callable[[list[Step], Path], Path]

_PATH = "/bin"
_COMMAND = "/bin/sh"


def makers(docker: Docker, podman: Podman) -> dict[str, Maker]:
    """Every maker by name: a function that is given steps and an empty folder, and gives an archive in it."""
    return {
        "docker": partial(_docker, docker, buildkit=False),
        "buildkit": partial(_docker, docker, buildkit=True),
        "podman": partial(_podman, podman),
        "buildah": partial(_buildah, podman),
        "umoci": _umoci,
    }


def zstd_makers(docker: Docker, podman: Podman) -> dict[str, Maker]:
    """Those that compress layers by zstd: docker with containerd's image store, and podman by a push."""
    return {"buildkit zstd": partial(_docker_zstd, docker), "podman zstd": partial(_podman_zstd, podman)}


def _docker_zstd(docker: Docker, steps: list[Step], folder: Path) -> Path:
    """Build without attestations, with zstd layers; save as an OCI layout that is docker's own too."""
    context, name = _context(folder, steps), f"bot-bottle-test-corpus:{OWNER}"
    output = f"type=image,name={name},compression=zstd,force-compression=true,oci-mediatypes=true"
    build = ("buildx", "build", "--quiet", "--network=none", "--provenance=false", "--output", output)
    docker.docker(*build, str(context))
    docker.docker("save", "--output", str(folder / "saved.tar"), name)
    docker.docker("rmi", name)
    return folder / "saved.tar"


def _podman_zstd(podman: Podman, steps: list[Step], folder: Path) -> Path:
    """`podman build`; pushed to an OCI layout."""
    image = podman.build(_context(folder, steps), "--cap-add=MKNOD")
    podman.podman("push", "--quiet", "--compression-format=zstd", image, f"oci:{folder}/layout:latest")
    podman.podman("rmi", "--force", image)
    return folder / "layout"


def _docker(docker: Docker, steps: list[Step], folder: Path, *, buildkit: bool) -> Path:
    """Build with one of docker's two builders; save in docker's own layout."""
    env = {**docker.env, "DOCKER_BUILDKIT": str(int(buildkit))}
    client = _client(env, buildkit=buildkit)
    context = _context(folder, steps)
    image = call([client, "build", "--quiet", "--network=none", str(context)], env).decode().strip()
    call([client, "save", "--output", str(folder / "saved.tar"), image], env)
    return folder / "saved.tar"


def _client(env: dict[str, str], *, buildkit: bool) -> str:
    for client in ("docker", *map(str, docker_clients())):
        version = call([client, "version", "--format", "{{.Client.Version}}"], env).decode()
        plugin = subprocess.run([client, "buildx", "version"], env=env, capture_output=True, timeout=30)
        if not buildkit or int(version.split(".")[0]) < 23 or plugin.returncode == 0:
            return client
    raise AssertionError("no docker client here has BuildKit; that of Debian's docker.io has it")


def _podman(podman: Podman, steps: list[Step], folder: Path) -> Path:
    """`podman build`; saved as docker saves."""
    context = _context(folder, steps)
    options = [*podman_limits(), "--cap-add=MKNOD"]  # which podman 5 no longer gives a build by itself
    podman.podman("build", *options, "--layers", "--format=docker", f"--iidfile={folder}/id", str(context))
    image, saved = (folder / "id").read_text(), folder / "saved.tar"
    podman.podman("save", "--quiet", "--format=docker-archive", "--output", str(saved), image)
    podman.podman("rmi", "--force", image)
    return saved


def _buildah(podman: Podman, steps: list[Step], folder: Path) -> Path:
    """buildah's own commands, with a container for each step that is committed; saved as an OCI archive."""

    def buildah(*args: str) -> str:
        return call(["buildah", *args], podman.buildah_env).decode().strip()

    image = "scratch"
    for number, step in enumerate([base(), *steps]):
        container = buildah("from", "--pull-never", image)
        match step:
            case Add(members):
                (folder / f"{number}.tar").write_bytes(layer(members))
                buildah("add", "--quiet", container, str(folder / f"{number}.tar"), "/")
            case Run(script):
                buildah("run", "--isolation=chroot", container, "sh", "-ec", script)
        buildah("config", "--env", f"PATH={_PATH}", "--cmd", _COMMAND, container)
        image = buildah("commit", "--quiet", "--rm", container)
    buildah("push", "--quiet", image, f"oci-archive:{folder}/saved.tar")
    buildah("rmi", "--force", image)
    return folder / "saved.tar"


def _umoci(steps: list[Step], folder: Path) -> Path:
    """umoci: for each step the root is unpacked, changed on this machine, and packed; an OCI layout."""

    def umoci(command: str, *args: str) -> None:
        call(["umoci", command, "--image", f"{folder}/layout:latest", *args], dict(os.environ))

    bundle = folder / "bundle"
    call(["umoci", "init", "--layout", str(folder / "layout")], dict(os.environ))
    umoci("new")
    umoci("config", "--config.env", f"PATH={_PATH}", "--config.cmd", _COMMAND)
    for number, step in enumerate([base(), *steps]):
        umoci("unpack", str(bundle))
        match step:
            case Add(members):
                (folder / f"{number}.tar").write_bytes(layer(members))
                _extract(folder / f"{number}.tar", bundle / "rootfs")
            case Run(script):
                chroot = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin") or "chroot"
                call([chroot, str(bundle / "rootfs"), "/bin/sh", "-ec", script], {"PATH": _PATH})
        umoci("repack", str(bundle))
        shutil.rmtree(bundle)
    return folder / "layout"


def _extract(tar: Path, root: Path) -> None:
    how = ["--numeric-owner", "-p", "--keep-directory-symlink", "--xattrs", "--xattrs-include=*"]
    call(["tar", "-C", str(root), *how, "-xf", str(tar)], dict(os.environ))


def _context(folder: Path, steps: list[Step]) -> Path:
    """Write a Dockerfile that does the steps, and the tars that it adds."""
    context = folder / "context"
    context.mkdir()
    lines = ["FROM scratch", f"ENV PATH={_PATH}", f'CMD ["{_COMMAND}"]']
    for number, step in enumerate([base(), *steps]):
        match step:
            case Add(members):
                (context / f"{number}.tar").write_bytes(layer(members))
                lines.append(f"ADD {number}.tar /")
            case Run(script):
                lines.append(f"RUN set -e; {script}")
    (context / "Dockerfile").write_text("\n".join([*lines, f"LABEL {LABEL}={OWNER}", ""]))
    return context
