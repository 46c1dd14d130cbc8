"""devcontainer.json in the forms in which repositories have it, each as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.config.file import find
from bot_bottle.errors import SpecError
from bot_bottle.workspace.lifecycle import Command


@dataclass(frozen=True)
class Form:
    """A file, and what a bottle is by it; or the keys that it is refused for."""

    text: str
    image: Mapping[str, Any] = field(default_factory=dict)
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    workdir: str | None = None
    create: Mapping[str, Command] = field(default_factory=dict)
    start: Mapping[str, Command] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


FORMS = {
    "a prebuilt image, as an editor's command writes it": Form(
        """// For format details, see https://aka.ms/devcontainer.json.
{
	"name": "Python 3",
	// Or use a Dockerfile or Docker Compose file. More info: https://containers.dev/guide/dockerfile
	"image": "images.example.org/devcontainers/python:1-3.12-bullseye"

	// Features to add to the dev container. More info: https://containers.dev/features.
	// "features": {},
	// "forwardPorts": [],
	// "postCreateCommand": "pip3 install --user -r requirements.txt",
	// "remoteUser": "root"
}
""",
        image={"name": "images.example.org/devcontainers/python:1-3.12-bullseye"},
    ),
    "web development with node": Form(
        """{
  "name": "Node.js",
  "image": "images.example.org/devcontainers/typescript-node:20",
  "forwardPorts": [3000, 5173],
  "portsAttributes": {"3000": {"label": "App", "onAutoForward": "openPreview"}},
  "postCreateCommand": "npm ci",
  "customizations": {"vscode": {"extensions": ["dbaeumer.vscode-eslint"], "settings": {"a": true}}},
  "remoteUser": "node",
}""",
        image={"name": "images.example.org/devcontainers/typescript-node:20"},
        user="node",
        ports=("3000", "5173"),
        create={"postCreateCommand": "npm ci"},
    ),
    "a Dockerfile beside it": Form(
        """{
  "build": {
    "dockerfile": "Dockerfile",
    "context": "..",
    "args": {"VARIANT": "1.22", "NODE": 20, "WITH_DOCS": false}
  },
  "containerEnv": {"GOFLAGS": "-mod=mod", "PROJECT": "${localWorkspaceFolderBasename}"},
  "postCreateCommand": ["go", "mod", "download"],
  "hostRequirements": {"cpus": 4}
}""",
        image={
            "dockerfile": ".devcontainer/Dockerfile",
            "context": ".",
            "args": {"VARIANT": "1.22", "NODE": "20", "WITH_DOCS": "false"},
        },
        env={"GOFLAGS": "-mod=mod", "PROJECT": "project"},
        create={"postCreateCommand": ("go", "mod", "download")},
    ),
    "the form from before build, with a byte order mark": Form(
        '\ufeff{"name": "old", "dockerFile": "../docker/Dev", "context": "..", "appPort": ["8080:80"],\r\n'
        ' "extensions": ["a.b"], "settings": {"terminal.integrated.shell.linux": "/bin/bash"}}',
        image={"dockerfile": "docker/Dev", "context": "."},
        ports=("8080:80",),
    ),
    "features": Form(
        """{
  "image": "ubuntu:24.04",
  "features": {
    "registry.example.org/devcontainers/features/common-utils:2": {"installZsh": false, "username": "dev"},
    "registry.example.org/devcontainers/features/node:1": "lts",
    "./local": {}
  },
  "overrideFeatureInstallOrder": ["registry.example.org/devcontainers/features/common-utils"],
  "remoteUser": "dev"
}""",
        image={"name": "ubuntu:24.04"},
        user="dev",
        features=(
            "registry.example.org/devcontainers/features/common-utils:2",
            "registry.example.org/devcontainers/features/node:1",
            "./local",
        ),
    ),
    "every lifecycle command": Form(
        """{
  "image": "debian",
  "onCreateCommand": "bash .devcontainer/on-create.sh",
  "updateContentCommand": ["make", "deps"],
  "postCreateCommand": {
    "python": "pip install -r requirements.txt",
    "hooks": ["pre-commit", "install-hooks"]
  },
  "postStartCommand": "git config --global --add safe.directory ${containerWorkspaceFolder}",
  "waitFor": "postCreateCommand"
}""",
        image={"name": "debian"},
        create={
            "onCreateCommand": "bash .devcontainer/on-create.sh",
            "updateContentCommand": ("make", "deps"),
            "postCreateCommand": {
                "python": "pip install -r requirements.txt",
                "hooks": ("pre-commit", "install-hooks"),
            },
        },
        start={"postStartCommand": "git config --global --add safe.directory /workspace"},
    ),
    "values of the machine": Form(
        """{
  "build": {"dockerfile": "../Dockerfile.dev", "target": "dev", "cacheFrom": "images.example.org/p:cache"},
  "remoteEnv": {
    "LOCAL_WORKSPACE_FOLDER": "${localWorkspaceFolder}",
    "EDITOR": "${localEnv:NOT_SET_ANYWHERE:vi}",
    "DATA": "${containerWorkspaceFolder}/data"
  },
  "containerUser": "dev",
  "updateRemoteUserUID": true,
  "userEnvProbe": "loginInteractiveShell",
  "shutdownAction": "none",
  "init": true
}""",
        image={"dockerfile": "Dockerfile.dev", "context": ".devcontainer", "target": "dev"},
        user="dev",
        env={"LOCAL_WORKSPACE_FOLDER": "{project}", "EDITOR": "vi", "DATA": "/workspace/data"},
    ),
    "a folder of a monorepo": Form(
        '{"image": "debian", "workspaceFolder": "/workspace/services/api", "postCreateCommand": "make"}',
        image={"name": "debian"},
        workdir="/workspace/services/api",
        create={"postCreateCommand": "make"},
    ),
    "docker compose": Form(
        """{
  "name": "App and database",
  "dockerComposeFile": ["../docker-compose.yml", "docker-compose.extend.yml"],
  "service": "app",
  "runServices": ["db"],
  "workspaceFolder": "/workspaces/${localWorkspaceFolderBasename}",
  "forwardPorts": ["db:5432", 8000]
}""",
        refused=("dockerComposeFile", "service", "runServices"),
    ),
    "docker in docker": Form(
        """{
  "image": "images.example.org/devcontainers/base:debian",
  "mounts": [
    "source=/var/run/docker.sock,target=/var/run/docker.sock,type=bind",
    {"source": "${localEnv:HOME}/.ssh", "target": "/home/vscode/.ssh", "type": "bind"}
  ],
  "runArgs": ["--network=host", "--cap-add=SYS_PTRACE", "--security-opt", "seccomp=unconfined"],
  "privileged": true
}""",
        refused=("mounts", "runArgs", "privileged"),
    ),
    "a debugger's rights": Form(
        '{"build": {"dockerfile": "Dockerfile"}, "capAdd": ["SYS_PTRACE"], "securityOpt": ["x=y"]}',
        refused=("capAdd", "securityOpt"),
    ),
    "something that is run on the machine first": Form(
        '{"image": "debian", "initializeCommand": "bash init.sh", "postAttachCommand": "echo hi"}',
        refused=("initializeCommand", "postAttachCommand"),
    ),
    "a workspace elsewhere": Form(
        """{
  "image": "debian",
  "workspaceMount": "source=${localWorkspaceFolder},target=/src,type=bind,consistency=cached",
  "workspaceFolder": "/src"
}""",
        refused=("workspaceMount",),
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_form_in_use_is_read_or_refused_by_name(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    path = project / ".devcontainer/devcontainer.json"
    path.parent.mkdir(parents=True)
    path.write_text(form.text)
    program = tmp_path / "bin/devcontainer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    if form.refused:
        with pytest.raises(SpecError) as caught:
            find(project, upwards=False)
        assert caught.value.message.endswith(f"a bottle does not have: {', '.join(form.refused)}")
        told = [line.partition(":")[0] for line in caught.value.why.splitlines()]
        assert tuple(told) == form.refused
        assert "bottle init" in caught.value.next_step
        return
    file = find(project, upwards=False)
    assert file is not None
    assert file.devcontainer is not None
    content, setup, features = file.content, file.devcontainer.setup, file.devcontainer.features
    assert content.image.model_dump(exclude_defaults=True) == form.image
    assert content.env == {name: value.replace("{project}", str(project)) for name, value in form.env.items()}
    assert (content.user, tuple(content.ports), content.workdir) == (form.user, form.ports, form.workdir)
    assert (setup.commands if setup else {}) == form.create
    assert file.devcontainer.start == form.start
    assert (tuple(features.wanted) if features else ()) == form.features
