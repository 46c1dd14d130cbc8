"""The project that the reference CLI is given, and what images say of their features."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.workspace.features import Features, commands_of_features, labelled_user, write_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    tool = folder / ".devcontainer/tool"
    tool.mkdir(parents=True)
    (tool / "install.sh").write_text("#!/bin/sh\n")
    (tool / "install.sh").chmod(0o755)
    (tool / "also").symlink_to("install.sh")
    (folder / ".devcontainer/devcontainer.json").write_text('{"initializeCommand": "false"}')
    return folder


def features(project: Path, *names: str, options: Any = None, **more: Any) -> Features:
    wanted = {name: options or {} for name in names}
    return Features(wanted, project / ".devcontainer/devcontainer.json", project, **more)


def written(wanted: Features, folder: Path) -> tuple[dict[str, Any], str]:
    config, digest = write_project(wanted, "base", folder)
    assert config.is_relative_to(folder)
    return json.loads(config.read_text()), digest


def test_the_project_has_the_features_alone(project: Path, tmp_path: Path) -> None:
    (project / "private").write_text("x")
    wanted = features(
        project, "./tool", "registry.example/a/b:1", options={"v": "1"}, order=("b",), user="dev"
    )
    document, _ = written(wanted, tmp_path / "made")
    assert document == {
        "image": "base",
        "features": {"./tool": {"v": "1"}, "registry.example/a/b:1": {"v": "1"}},
        "overrideFeatureInstallOrder": ["b"],
        "remoteUser": "dev",
    }
    files = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*.*")}
    assert files == {".devcontainer", ".devcontainer/devcontainer.json", ".devcontainer/tool/install.sh"}
    made = tmp_path / "made/.devcontainer/tool"
    assert os.access(made / "install.sh", os.X_OK)
    assert (made / "also").readlink() == Path("install.sh")


def test_features_options_and_user_decide_the_digest(project: Path, tmp_path: Path) -> None:
    count = 0

    def digest(*names: str, **more: Any) -> str:
        nonlocal count
        count += 1
        return written(features(project, *names, **more), tmp_path / f"made-{count}")[1]

    first = digest("./tool")
    assert digest("./tool") == first
    others = [digest("./tool", user="dev"), digest("./tool", options={"v": "1"})]
    (project / ".devcontainer/tool/install.sh").chmod(0o644)
    others.append(digest("./tool"))
    (project / ".devcontainer/tool/install.sh").write_text("#!/bin/sh\nfalse\n")
    others.append(digest("./tool"))
    (project / ".devcontainer/devcontainer-lock.json").write_text("{}")
    others.append(digest("./tool"))
    assert (tmp_path / f"made-{count}/.devcontainer/devcontainer-lock.json").read_text() == "{}"
    assert len({first, *others}) == 6


@pytest.mark.parametrize("name", ["./", ".", "..", "../.devcontainer", "../../outside", "/etc", "./link"])
def test_a_feature_has_a_folder_of_its_own(project: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (project / ".devcontainer/link").symlink_to(tmp_path / "outside")
    with pytest.raises(SpecError, match="has no folder of its own"):
        write_project(features(project, name), "base", tmp_path / "made")


@pytest.mark.parametrize("kind", ["absolute", "relative", "dangling", "pipe"])
def test_a_feature_has_files_of_its_own_alone(project: Path, tmp_path: Path, kind: str) -> None:
    place = project / ".devcontainer/tool/odd"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        target = {"absolute": "/etc/passwd", "relative": "../devcontainer.json", "dangling": "../../../gone"}
        place.symlink_to(target[kind])
    with pytest.raises(SpecError, match="a feature cannot have"):
        write_project(features(project, "./tool"), "base", tmp_path / "made")
    with pytest.raises(SpecError, match="there is no folder of the feature"):
        write_project(features(project, "./missing"), "base", tmp_path / "other")


def test_commands_are_those_of_the_features_that_were_added() -> None:
    base = [{"id": "old", "postCreateCommand": "old"}, {"remoteUser": "vscode"}]
    new = {
        "id": "new",
        "postCreateCommand": ["a", "b"],
        "onCreateCommand": {"x": "y"},
        "capAdd": ["SYS_PTRACE"],
    }
    label = json.dumps([*base, new, {"remoteUser": "dev", "postCreateCommand": "the file's own"}])
    found = commands_of_features(label, json.dumps(base), Path("d.json"))
    assert found == {
        "onCreateCommand": {"new": {"x": "y"}},
        "updateContentCommand": {},
        "postCreateCommand": {"new": ("a", "b")},
    }
    for key, value in {
        "privileged": True,
        "mounts": ["x"],
        "entrypoint": "/x",
        "postStartCommand": "x",
    }.items():
        with pytest.raises(SpecError, match=f"the feature new asks .*: {key}"):
            commands_of_features(json.dumps([{"id": "new", key: value}]), "", Path("d.json"))


def test_the_last_remote_user_of_a_label_is_taken() -> None:
    assert (
        labelled_user(json.dumps([{"remoteUser": "a"}, {"remoteUser": "b"}, {"containerUser": "c"}])) == "b"
    )
    assert labelled_user(json.dumps({"containerUser": "c"})) == "c"
    for odd in ("", "{", "[" * 100_000, "3", "[3]", '[{"remoteUser": 3}]'):
        assert labelled_user(odd) == ""
