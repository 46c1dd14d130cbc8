"""A container's workspace where the engine cannot show it as the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import fake_engines

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.container.mounts import mount_options
from bot_bottle.errors import WorkspaceError
from bot_bottle.host import rundir
from bot_bottle.workspace.spec import Mount


def test_an_engine_that_remaps_users_is_told_of(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho \'{"SecurityOptions": ["name=seccomp","name=userns"]}\'\n')
    docker.chmod(0o755)
    launch = BottleConfig(
        slug="x", command=(), env={}, user="0", workdir="", cpus=1, memory_mib=512, workspace=Mount(tmp_path)
    )
    with rundir.run_dir() as run, pytest.raises(WorkspaceError, match="cannot map your folder") as caught:
        mount_options(launch, fake_engines.engine(docker), "image", run).__enter__()
    assert "userns-remap" in caught.value.why
    assert "--backend smolmachines" in caught.value.next_step
