"""What docker's own benchmark asks of a container, asked of a bottle's; and who may read what bottle keeps.

After the CIS Docker Benchmark, section 5 (container runtime). Not held to it: 5.12 (an agent installs what it
needs, so its root may be written to, in the container alone) and 5.26 (health checks are for services).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bottle import Bottle
from tests.support.callers import Caller, caller
from tests.support.engines import Docker

pytestmark = [pytest.mark.each_docker, pytest.mark.one_store, pytest.mark.others_slow]

SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/run", "/var")


@pytest.fixture(scope="module", params=[0, 4321], ids=["root", "user"])
def who(request: pytest.FixtureRequest, docker: Docker) -> Iterator[Caller]:
    with caller(request.param, docker) as made:
        yield made
        made.bottle("stop", "-t", "0", "hard")


@pytest.fixture(scope="module")
def running(who: Caller, git_image: str) -> Bottle:
    """A bottle that may reach something, with a workspace and a secret, in the background."""
    repo = who.repo()
    (who.folder / "secret").write_text("a-value-of-a-secret\n")
    options = (
        "--workspace=clone",
        "--allow=api.example.org",
        "--memory=512m",
        f"--secret=id=KEY,src={who.folder}/secret",
    )
    argv = ("run", "-q", "-d", "--backend=docker", "--name=hard", *options, "--image", git_image)
    started = who.bottle(*argv, "--", "sleep", "100", cwd=repo.top)
    assert started.code == 0, started
    return who.bottle


def inspected(docker: Docker, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(docker.docker("container", "inspect", name))[0]
    return document


def test_the_containers_pass_dockers_benchmark(running: Bottle, docker: Docker) -> None:
    for name in ("bottle-hard", "bottle-hard-network"):
        told = inspected(docker, name)
        host, config = told["HostConfig"], told["Config"]
        assert "no-new-privileges" in host["SecurityOpt"]  # 5.25
        assert not [each for each in host["SecurityOpt"] if "unconfined" in each]  # 5.1, 5.21
        assert host["CapDrop"] == ["ALL"]  # 5.3
        assert not {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD"} & set(host["CapAdd"] or [])
        assert host["Privileged"] is False  # 5.4
        assert not host["PortBindings"]  # 5.7, 5.8
        assert host["NetworkMode"] == "none" or host["NetworkMode"].startswith("container:")  # 5.9, 5.29
        assert host["Memory"] in (512 << 20, 256 << 20)  # 5.10
        assert host["PidsLimit"]  # 5.28
        assert host["RestartPolicy"]["Name"] in ("", "no")  # 5.14
        assert not host["PidMode"]  # 5.15
        assert host["IpcMode"] != "host"  # 5.16
        assert not host["Devices"]  # 5.17
        assert host["UTSMode"] != "host"  # 5.20
        assert not host["UsernsMode"]  # 5.30
        assert not host["Binds"]
        for mount in told["Mounts"]:
            assert mount["Propagation"] in ("rprivate", "private")  # 5.19
            assert "docker.sock" not in mount["Source"]  # 5.31
            assert not mount["RW"] or mount["Destination"] == "/workspace"
        assert "a-value-of-a-secret" not in json.dumps(told)
        assert not any(item.startswith("KEY=") for item in config["Env"] or [])
    writable = [mount["Source"] for mount in inspected(docker, "bottle-hard")["Mounts"]]
    assert not set(SENSITIVE) & set(writable)  # 5.5
    assert inspected(docker, "bottle-hard-network")["HostConfig"]["ReadonlyRootfs"]  # 5.12, where it can be
    assert inspected(docker, "bottle-hard")["HostConfig"]["NanoCpus"]  # 5.11


def readable_by_others(top: Path, owner: int) -> list[str]:
    """Give what below a folder somebody else may reach; what a private folder holds is out of reach."""
    found = []
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = Path(folder, name)
            status = path.lstat()
            if status.st_uid != owner:
                found.append(f"{path} is of {status.st_uid}")
            if stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o077:
                if name in folders:
                    folders.remove(name)  # nobody else gets in
                continue
            if not stat.S_ISDIR(status.st_mode):
                found.append(f"{path} {status.st_mode:o}")
    return found


def test_files_and_pipes_of_bottle_are_its_users_alone(running: Bottle, who: Caller) -> None:
    assert running("exec", "hard", "--", "true").code == 0
    state = who.folder / "state"
    assert list((state / "receipts").iterdir())
    assert readable_by_others(state, who.uid) == []
    runs = running.cache / "runs"
    assert list(runs.glob("run-*/entrypoint/says")), "its pipes are there"
    assert readable_by_others(runs, who.uid) == []
