"""devcontainer.json: what of it a bottle can be, and that the rest is refused by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bot_bottle.cli.main import bottle
from bot_bottle.config.file import ConfigFile, find
from bot_bottle.config.variables import Variables
from bot_bottle.errors import SpecError, TrustError
from bot_bottle.host.redact import MASK, redacted


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(
    project: Path, content: dict[str, Any] | str, name: str = ".devcontainer/devcontainer.json"
) -> None:
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def found(project: Path) -> ConfigFile:
    file = find(project, upwards=False)
    assert file is not None
    return file


def refused(project: Path, content: dict[str, Any] | str) -> str:
    write(project, content)
    with pytest.raises(SpecError) as caught:
        find(project, upwards=False)
    assert caught.value.next_step
    return str(caught.value)


def run(*args: str) -> Result:
    return CliRunner().invoke(bottle, args)


# --- what is taken


EDITED = """{
  // as editors write it
  "name": "it",
  "build": { "dockerfile": "../Dockerfile.dev", "context": "..", "args": { "A": "1" }, "target": "dev", },
  "customizations": { "vscode": { "extensions": ["${unknown}"] } },
  "remoteUser": "agent",
}"""


def test_a_devcontainer_that_names_a_build_is_read(project: Path) -> None:
    write(project, EDITED)
    content = found(project).content
    assert (content.image.dockerfile, content.image.context, content.image.target) == (
        "Dockerfile.dev",
        ".",
        "dev",
    )
    assert (content.image.args, content.user) == ({"A": "1"}, "agent")


def test_a_devcontainer_in_the_folder_itself_is_read(project: Path) -> None:
    write(project, {"build": {"dockerfile": "docker/Dev"}}, ".devcontainer.json")
    image = found(project).content.image
    assert (image.dockerfile, image.context) == ("docker/Dev", ".")


def test_a_devcontainer_with_the_old_dockerfile_key_is_read(project: Path) -> None:
    write(project, {"dockerFile": "Dev", "context": ".."})
    image = found(project).content.image
    assert (image.dockerfile, image.context) == (".devcontainer/Dev", ".")


def test_a_devcontainer_that_names_an_image_is_read(project: Path) -> None:
    write(project, {"image": "images.example.org/devcontainers/python:3", "containerUser": "vscode"})
    content = found(project).content
    assert content.image.name == "images.example.org/devcontainers/python:3"
    assert (content.image.dockerfile, content.user) == (None, "vscode")


def test_values_that_are_no_texts_become_texts(project: Path) -> None:
    args = {"a": 3, "b": True, "c": False, "d": 1.5, "e": 2.0, "f": "x"}
    write(project, {"build": {"dockerfile": "D", "args": args}, "containerEnv": {"N": 1}})
    content = found(project).content
    assert content.image.args == {"a": "3", "b": "true", "c": "false", "d": "1.5", "e": "2", "f": "x"}
    assert content.env == {"N": "1"}


def test_a_byte_order_mark_is_no_mistake(project: Path) -> None:
    write(project, '\ufeff{"image": "debian"}')
    assert found(project).content.image.name == "debian"


def test_environments_ports_and_the_folder_are_read(project: Path) -> None:
    document = {
        "image": "debian",
        "containerEnv": {"A": "1", "B": "1"},
        "remoteEnv": {"B": "2", "C": "${containerEnv:A}:${containerEnv:A:no}"},
        "forwardPorts": [3000, "localhost:4000", "5000"],
        "appPort": "8080:80",
        "workspaceFolder": "/workspace/sub/",
    }
    write(project, document)
    content = found(project).content
    assert content.env == {"A": "1", "B": "2", "C": "1:1"}
    assert content.ports == ["3000", "4000", "5000", "8080:80"]
    assert content.workdir == "/workspace/sub"
    write(project, {"image": "debian", "workspaceFolder": "${containerWorkspaceFolder}"})
    assert found(project).content.workdir is None


def test_the_folder_in_the_container_is_the_one_that_it_names(project: Path) -> None:
    env = {"A": "${containerWorkspaceFolder}/x", "B": "${containerWorkspaceFolderBasename}"}
    write(project, {"image": "debian", "workspaceFolder": "/workspace/sub", "containerEnv": env})
    assert found(project).content.env == {"A": "/workspace/sub/x", "B": "sub"}


def program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program where the reference CLI would be."""
    folder.mkdir()
    (folder / "devcontainer").write_text("#!/bin/sh\n")
    (folder / "devcontainer").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_features_need_the_reference_cli(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    document = {"image": "a", "remoteUser": "dev", "features": {"./tool": {"v": "${localEnv:V}", "b": True}}}
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("V", "mine")
    text = refused(project, document)
    assert "asks for features" in text
    assert "npm install -g @devcontainers/cli" in text
    assert "asks for features" in str(run("config").exception)
    program(tmp_path / "bin", monkeypatch)
    file = found(project)
    assert file.devcontainer is not None
    assert file.devcontainer.features is not None
    assert file.devcontainer.features.wanted == {"./tool": {"v": "mine", "b": True}}
    assert (file.devcontainer.features.user, file.variables) == ("dev", ("V",))
    assert json.loads(run("config", "--json").stdout)["features"]["value"] == ["./tool"]


@pytest.mark.parametrize(
    "document",
    [
        {"features": ["registry.example.org/a/b"]},
        {"features": {"a": {"b": 1}}},
        {"features": {"a": None}},
        {"features": {"": {}}},
        {"features": {"a": {}}, "overrideFeatureInstallOrder": "a"},
    ],
)
def test_features_of_no_known_form_are_named(project: Path, document: dict[str, Any]) -> None:
    assert "features cannot be used" in refused(project, {"image": "a", **document})


def test_commands_of_the_image_and_of_the_bottle_are_read(project: Path) -> None:
    document = {
        "image": "debian",
        "remoteUser": "agent",
        "remoteEnv": {"A": "${localWorkspaceFolderBasename}"},
        "postCreateCommand": {
            "web": "npm ci",
            "docs": ["pip", "install", "-r", "${containerWorkspaceFolder}/r"],
        },
        "onCreateCommand": "make ${localWorkspaceFolderBasename} ${HOME:-x} ${#A} $(id)",
        "updateContentCommand": "",
        "postStartCommand": ["serve", "-d"],
    }
    write(project, document)
    file = found(project).devcontainer
    assert file is not None
    assert file.setup is not None
    assert list(file.setup.commands.items()) == [
        ("onCreateCommand", "make project ${HOME:-x} ${#A} $(id)"),
        ("postCreateCommand", {"web": "npm ci", "docs": ("pip", "install", "-r", "/workspace/r")}),
    ]
    assert (file.setup.user, file.setup.env, file.setup.folder) == ("agent", {"A": "project"}, "/workspace")
    assert file.start == {"postStartCommand": ("serve", "-d")}
    shown = json.loads(run("config", "--json").stdout)
    assert shown["postStartCommand"] == {"value": ["serve", "-d"], "from": str(file.setup.file)}
    assert shown["postCreateCommand"]["value"]["docs"][0] == "pip"


@pytest.mark.parametrize("value", [1, [1], {"a": {"b": "c"}}, ["a", ["b"]], "a\0b"])
def test_a_command_of_no_known_form_is_named(project: Path, value: Any) -> None:
    assert "postCreateCommand cannot be used" in refused(project, {"image": "a", "postCreateCommand": value})


def test_a_value_of_the_environment_is_not_put_into_a_command(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-secret-value")
    text = refused(project, {"image": "a", "postCreateCommand": "login ${localEnv:MY_TOKEN}"})
    assert "postCreateCommand has the value of the variable MY_TOKEN" in text
    assert "remoteEnv" in text
    env = {"TOKEN": "x${localEnv:MY_TOKEN}", "PLAIN": "1"}
    write(project, {"image": "a", "postCreateCommand": "login $TOKEN", "remoteEnv": env})
    file = found(project).devcontainer
    assert file is not None
    assert file.setup is not None
    assert file.setup.private == {"TOKEN"}


def test_what_is_empty_asks_for_nothing(project: Path) -> None:
    empty = {"features": {}, "mounts": [], "runArgs": [], "privileged": False, "postCreateCommand": ""}
    write(project, {"image": "debian", **empty, "service": None, "onCreateCommand": {"a": ""}})
    file = found(project)
    assert file.content.image.name == "debian"
    assert file.devcontainer is not None
    assert (file.devcontainer.setup, file.devcontainer.start) == (None, {})


# --- what is refused


ASKS = {
    "dockerComposeFile": "compose.yml",
    "mounts": ["source=/,target=/host,type=bind"],
    "workspaceMount": "source=/,target=/host,type=bind",
    "runArgs": ["--privileged"],
    "initializeCommand": "touch /tmp/x",
    "postAttachCommand": "make",
    "privileged": True,
    "capAdd": ["SYS_PTRACE"],
    "securityOpt": ["seccomp=unconfined"],
    "gpu": "all",
}


@pytest.mark.parametrize("key", ASKS)
def test_what_a_bottle_does_not_have_is_named(project: Path, key: str) -> None:
    text = refused(project, {"image": "debian", key: ASKS[key]})
    assert f"a bottle does not have: {key}\n" in text
    assert f"  {key}: " in text or key == "gpu"
    assert "bottle init" in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"build": {"dockerfile": "D", "options": ["--x"]}}', "its build has the option --x"),
        ('{"build": {"context": ".."}}', "has no dockerfile"),
        (
            '{"build": {"dockerfile": "D", "args": {"A": [1]}}}',
            "image.args.A: input should be a valid string",
        ),
        ('{"build": {"dockerfile": "D", "context": {}}}', "image.context: input should be a valid string"),
        ('{"image": "a", "build": {"dockerfile": "D"}}', "names an image and a build"),
        ('{"image": ["a"]}', "image.name: input should be a valid string"),
        ('{"image": "a", "workspaceFolder": "/workspaces/x"}', "workspaceFolder is not in /workspace"),
        ('{"image": "a", "workspaceFolder": "/workspace/../etc"}', "workspaceFolder is not in /workspace"),
        ('{"image": "a", "forwardPorts": ["db:5432"]}', "forwardPorts has 'db:5432'"),
        ('{"image": "a", "remoteEnv": 1}', "env: input should be a valid dictionary"),
        ('{"image": "a", "remoteUser": ["x"]}', "user: input should be a valid string"),
        ('{"build": "D"}', "names no image and no build"),
        ("{}", "names no image and no build"),
        ("[]", "is not a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(project: Path, text: str, told: str) -> None:
    assert told in refused(project, text)


def test_a_path_of_a_devcontainer_outside_the_folder_is_refused(project: Path) -> None:
    write(project, {"build": {"dockerfile": "../../D", "context": "../.."}})
    file = found(project)
    with pytest.raises(SpecError, match="points outside"):
        file.inside(file.content.image.context or "", "image.context")


# --- variables


def substituted(project: Path, text: str, key: str = "containerEnv") -> str:
    write(project, {"image": "debian", key: {"X": text}})
    return found(project).content.env["X"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${localWorkspaceFolder}/x", "{project}/x"),
        ("${localWorkspaceFolderBasename}", "project"),
        ("${containerWorkspaceFolder}", "/workspace"),
        ("a${containerWorkspaceFolderBasename}b", "aworkspaceb"),
        ("${localEnv:SET}", "value"),
        ("${env:SET}", "value"),
        ("${localEnv:SET:default}", "value"),
        ("${localEnv:EMPTY:default}", ""),
        ("${localEnv:UNSET}", ""),
        ("${localEnv:UNSET:default:more}", "default"),
        ("${localEnv:UNSET:}", ""),
        ("${localEnv:SET}${localEnv:SET}", "valuevalue"),
        ("$SET $(x) ${", "$SET $(x) ${"),
        ("${localEnv:NESTED}", "${localEnv:SET}"),
    ],
)
def test_variables_are_replaced_as_the_specification_has_them(
    project: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    monkeypatch.setenv("SET", "value")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NESTED", "${localEnv:SET}")
    monkeypatch.delenv("UNSET", raising=False)
    assert substituted(project, text) == value.replace("{project}", str(project))


def test_variables_are_replaced_in_every_value_that_is_used(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V", "x")
    build = {
        "dockerfile": "D.${env:V}",
        "context": "${env:V}",
        "target": "${env:V}",
        "args": {"A": "${env:V}"},
    }
    write(project, {"build": build, "remoteUser": "${env:V}", "forwardPorts": ["${env:UNSET:80}"]})
    content = found(project).content
    image = content.image
    assert (image.dockerfile, image.context) == (".devcontainer/D.x", ".devcontainer/x")
    assert (image.target, image.args, content.user, content.ports) == ("x", {"A": "x"}, "x", ["80"])
    write(project, {"image": "debian:${localEnv:V}"})
    assert found(project).content.image.name == "debian:x"


@pytest.mark.parametrize(
    ("key", "text", "name"),
    [
        ("containerEnv", "${containerEnv:PATH}:/extra", "containerEnv:PATH"),
        ("remoteEnv", "${containerEnv:PATH}:/extra", "containerEnv:PATH"),
        ("containerEnv", "${userHome}", "userHome"),
        ("containerEnv", "${HOME}", "HOME"),
        ("containerEnv", "${localEnv}", "localEnv"),
        ("containerEnv", "${localEnv:}", "localEnv:"),
        ("containerEnv", "${localWorkspaceFolder:x}", "localWorkspaceFolder:x"),
        ("containerEnv", "${}", ""),
        ("containerEnv", "${\x1b[31m}", "\\x1b[31m"),
    ],
)
def test_a_variable_that_cannot_be_replaced_is_named(project: Path, key: str, text: str, name: str) -> None:
    told = refused(project, {"image": "debian", key: {"X": text}})
    assert f"{key}.X uses ${{{name}}}" in told


def test_the_id_is_that_of_the_reference_implementation() -> None:
    """Its algorithm, run in node for these two paths, gives this."""
    project = Path("/home/ada/pröject")
    variables = Variables(project / ".devcontainer/devcontainer.json", project, "/workspace")
    assert variables.substitute("${devcontainerId}", "name") == (
        "1dleh3appjrgkp6i68165eqt39q7lhcslbmm33f5argrpds9ctp8"
    )


# --- values of this machine


def test_what_a_repository_takes_of_the_environment_needs_a_grant(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its build may reach the network, so a value is out of our hands there."""
    monkeypatch.setenv("MY_TOKEN", "a-secret-value")
    write(project, {"build": {"dockerfile": "D", "args": {"T": "${localEnv:MY_TOKEN}"}}})
    for command in (("pack",), ("cache", "why"), ("run", "--plan"), ("fan", "2", "--", "true")):
        done = run(*command)
        assert isinstance(done.exception, TrustError), command
        assert "read the variable MY_TOKEN of your environment" in str(done.exception)
    monkeypatch.delenv("MY_TOKEN")
    assert not isinstance(run("pack").exception, TrustError)


def test_a_variable_that_every_program_may_read_needs_no_grant(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "ada")
    write(project, {"build": {"dockerfile": "D", "args": {"U": "${localEnv:USER}"}}})
    assert found(project).variables == ()


def test_a_value_of_the_environment_is_not_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-secret-value")
    document = {
        "build": {"dockerfile": "D${localEnv:MY_TOKEN}", "args": {"T": "${localEnv:MY_TOKEN}"}},
        "containerEnv": {"A": "x${localEnv:MY_TOKEN}", "B": "plain"},
        "remoteEnv": {"C": "${containerEnv:A}"},
    }
    write(project, document)
    done = run("config", "--json")
    assert done.exit_code == 0
    shown = {key: each["value"] for key, each in json.loads(done.stdout).items()}
    hidden = [shown[key] for key in ("image.args.T", "env.A", "env.C")]
    assert (hidden, shown["env.B"]) == (["(not shown)"] * 3, "plain")
    assert redacted("D" + "a-secret-value") == "D" + MASK
    assert found(project).content.env["C"] == "xa-secret-value"


# --- what it has no say in


@pytest.mark.parametrize("beside", ["Dockerfile", "Containerfile"])
def test_a_bottle_toml_and_a_dockerfile_go_before_it(project: Path, beside: str) -> None:
    write(project, {"features": {"x": {}}})
    (project / beside).write_text("FROM scratch\n")
    assert find(project, upwards=False) is None
    (project / "bottle.toml").write_text("cpus = 3")
    assert found(project).content.cpus == 3


REFUSED = {"dockerComposeFile": "compose.yml"}
UNDERSTOOD = {"image": "debian", "remoteUser": "vscode", "containerEnv": {"A": "1"}}
OTHER = [
    ("run", "--plan", "--image", "no-such-image:1"),
    ("run", "--archive", "missing.tar"),
    ("run", "-f", "missing"),
    ("fan", "2", "--image", "no-such-image:1", "--", "true"),
    ("pack", "--image", "no-such-image:1"),
    ("pack", "--archive", "missing.tar"),
    ("pack", "-f", "missing"),
    ("cache", "why", "--image", "no-such-image:1"),
    ("bench", "--image", "no-such-image:1"),
]


@pytest.mark.parametrize("content", [REFUSED, UNDERSTOOD], ids=["refused", "understood"])
@pytest.mark.parametrize("args", OTHER, ids=lambda args: " ".join(args[:2]))
def test_a_devcontainer_is_not_read_where_another_image_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], content: dict[str, Any]
) -> None:
    """The commands get as far as looking for what was named, and no further."""
    monkeypatch.setenv("PATH", "/nowhere")  # no engine
    write(project, content)
    with_it = str(run(*args).exception)
    shutil.rmtree(project / ".devcontainer")
    assert with_it == str(run(*args).exception)
    assert "devcontainer" not in with_it


def test_a_devcontainer_is_refused_by_every_command_that_uses_it(project: Path) -> None:
    write(project, REFUSED)
    for args in (("run",), ("pack",), ("config",), ("cache", "why")):
        assert "dockerComposeFile" in str(run(*args).exception)
    done = run("init")
    assert done.exit_code == 0
    assert run("config").exit_code == 0


def test_a_named_image_is_not_built(project: Path) -> None:
    write(project, UNDERSTOOD)
    for option in (("--target", "x"), ("--build-arg", "A=1"), ("--no-cache",)):
        assert "names an image" in str(run("pack", *option).exception)


# --- options of its build


def test_secrets_and_agents_of_its_build_need_a_grant(project: Path) -> None:
    options = ["--secret=id=npmrc,src=~/.npmrc", "--secret", "id=TOKEN,env=TOKEN", "--ssh", "default"]
    write(project, {"build": {"dockerfile": "D", "options": options}})
    image = found(project).content.image
    assert (image.secrets["npmrc"].file, image.secrets["TOKEN"].env) == ("~/.npmrc", "TOKEN")
    assert image.ssh == ["default"]
    for command in (("pack",), ("cache", "why"), ("run", "--plan")):
        refused = str(run(*command).exception)
        for line in ("npmrc: file ~/.npmrc", "TOKEN: env TOKEN", "SSH as default"):
            assert line in refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--privileged"], "the option --privileged"),
        (["--secret=id=A,env=A", "--network=host"], "the option --network"),
        (["--secretive=x"], "the option --secretive"),
        (["\x1b[31m--x"], r"the option \x1b[31m--x"),
        ("--ssh=default", "must be a list of texts"),
        ([["--ssh"]], "must be a list of texts"),
        (["--secret"], "devcontainer.json: the id of a build secret"),
        (["--secret=id=A,src=.npmrc"], "must be absolute"),
        (["--ssh"], "not an SSH agent or key"),
    ],
)
def test_other_options_of_its_build_are_named(project: Path, options: Any, told: str) -> None:
    write(project, {"build": {"dockerfile": "D", "options": options}})
    assert told in str(run("config").exception)
