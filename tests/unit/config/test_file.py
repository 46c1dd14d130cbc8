"""bottle.toml and devcontainer.json as a stranger may have written them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot_bottle.config.file import ConfigFile, find
from bot_bottle.config.settings import Setting, gather
from bot_bottle.errors import SpecError
from bot_bottle.secrets.build import BuildSecret, Ssh
from bot_bottle.secrets.reference import Reference


def written(folder: Path, text: str | bytes, name: str = "bottle.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def found(folder: Path, *, upwards: bool = False) -> ConfigFile:
    file = find(folder, upwards=upwards)
    assert file is not None
    return file


WHOLE = """
command = ["claude", "-p", "two words"]
cpus = 2
memory = "3g"
user = "agent"
workdir = "/src"
[image]
context = "sub"
dockerfile = "sub/Dockerfile.agent"
target = "dev"
args = { VERSION = "3" }
[env]
DEBUG = "1"
"""


def test_every_key_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    file = found(tmp_path)
    content = file.content
    assert (file.path, file.root) == (path, tmp_path)
    assert (content.command, content.cpus, content.memory) == (["claude", "-p", "two words"], 2, "3g")
    assert (content.user, content.workdir, content.env) == ("agent", "/src", {"DEBUG": "1"})
    assert (content.image.target, content.image.args) == ("dev", {"VERSION": "3"})
    assert file.inside("sub/Dockerfile.agent", "x") == tmp_path / "sub" / "Dockerfile.agent"


def test_it_is_found_from_below_up_to_the_top_of_the_repository(tmp_path: Path) -> None:
    outer, inner = tmp_path, tmp_path / "inner"
    deep = inner / "a" / "b"
    deep.mkdir(parents=True)
    written(outer, "cpus = 1")
    assert found(deep, upwards=True).root == outer
    assert find(deep, upwards=False) is None
    (inner / ".git").write_text("gitdir: elsewhere")  # a worktree or a submodule has a file there
    assert find(deep, upwards=True) is None
    written(inner, "cpus = 2")
    assert found(deep, upwards=True).root == inner


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cpu = 1", "cpu: no such key; did you mean cpus?"),
        ("Memory = '1g'", "Memory: no such key; did you mean memory?"),
        ("dockerfile = 'x'", "dockerfile: no such key; did you mean image.dockerfile?"),
        ("args = {}", "args: no such key; did you mean image.args?"),
        ("[image]\nfile = 'x'", "image.file: no such key; did you mean"),
        ("qqqq = 1", "qqqq: no such key; the keys are image, agent, backend, workspace"),
        ("cpus = '1'", "cpus: input should be a valid integer"),
        ("cpus = true", "cpus: input should be a valid integer"),
        ("cpus = 1.0", "cpus: input should be a valid integer"),
        ("command = 'claude'", "command: input should be a valid list"),
        ("command = ['a', 1]", "command.1: input should be a valid string"),
        ("env = ['A=1']", "env: input should be a valid dict"),
        ("[env]\nDEBUG = 1", "env.DEBUG: input should be a valid string"),
        ("image = 'x'", "image: input should be a valid dict"),
        ("[egress]\nalow = ['*']", "egress.alow: no such key; did you mean egress.allow?"),
        ("[secrets.KEY]\nenvy = 'KEY'", "secrets.KEY.envy: no such key; the keys are env, file"),
        ('"new\\nline\\u001b[31m" = 1', "new\\nline\\x1b[31m: no such key"),
        ("\n".join(f"k{n} = {n}" for n in range(50)), "and 45 more"),
        ("cpus = ", "Invalid value"),
        ("cpus = 1\ncpus = 2", "Cannot overwrite a value"),
        (b"\xff\xfe", "is not UTF-8"),
        ("a = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_mistake_is_reported_with_its_place(tmp_path: Path, text: str | bytes, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        find(tmp_path, upwards=False)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_values_are_not_repeated_in_an_error(tmp_path: Path) -> None:
    written(tmp_path, "[env]\nKEY = ['a secret']\n")
    with pytest.raises(SpecError) as caught:
        find(tmp_path, upwards=False)
    assert "a secret" not in str(caught.value)


def test_a_bottle_toml_of_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    with written(tmp_path, "").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(SpecError, match="too large"):
        find(tmp_path, upwards=False)


def test_a_bottle_toml_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bottle.toml"
    os.mkfifo(path)
    with pytest.raises(SpecError, match="not a regular file"):
        find(tmp_path, upwards=False)
    path.unlink()
    path.mkdir()
    with pytest.raises(SpecError, match="Is a directory"):
        find(tmp_path, upwards=False)
    path.rmdir()
    path.symlink_to("nowhere")
    with pytest.raises(SpecError, match="cannot read"):
        find(tmp_path, upwards=False)


@pytest.mark.parametrize("value", ["..", "../x", "a/../../x", "/", "/etc", "link", "link/passwd", "a\0b"])
def test_paths_stay_in_the_folder(tmp_path: Path, value: str) -> None:
    folder = tmp_path / "repository"
    written(folder, "")
    (folder / "link").symlink_to("/etc")
    with pytest.raises(SpecError, match="points outside the repository"):
        found(folder).inside(value, "image.context")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    written(tmp_path, b"\xef\xbb\xbfcpus = 3\n")
    assert found(tmp_path).content.cpus == 3


def test_an_image_may_be_named_instead_of_built(tmp_path: Path) -> None:
    written(tmp_path, '[image]\nname = "debian:12"\n')
    assert found(tmp_path).content.image.name == "debian:12"


def test_a_secret_has_hosts_and_says_whether_bodies_get_it(tmp_path: Path) -> None:
    written(tmp_path, '[secrets.A]\nenv = "A"\nhosts = ["a.org"]\nbody = true\n[secrets.B]\nfile = "~/b"\n')
    settings = gather({}, found(tmp_path))
    assert settings.table("secrets") == {
        "A": Reference("A", "env", "A", ("a.org",), body=True),
        "B": Reference("B", "file", "~/b"),
    }
    assert settings.of_file["secrets.A"] == "env A for a.org, bodies too"  # what a grant shows and is for


def test_of_limits_the_smaller_is_in_force_unless_an_option_says_another(tmp_path: Path) -> None:
    written(tmp_path, '[limits]\ntimeout = "90m"\nrequests = 5\ntokens = 100\n')
    standing = {
        key: Setting(value, "BOT_BOTTLE_X")
        for key, value in (("limits.timeout", "2h"), ("limits.requests", 50), ("limits.tokens", 10))
    }
    keys = list(standing)
    assert [gather(standing, found(tmp_path)).value(key) for key in keys] == ["90m", 5, 10]
    asked = {key: Setting(each.value, "--option") for key, each in standing.items()}
    assert [gather(asked, found(tmp_path)).value(key) for key in keys] == ["2h", 50, 10]


def test_a_build_gets_secrets_by_reference(tmp_path: Path) -> None:
    written(tmp_path, '[image]\nssh = ["default", "a=/k,~/l"]\n[image.secrets.npm-rc]\nfile = "~/.npmrc"\n')
    settings = gather({}, found(tmp_path))
    assert settings.table("image.secrets") == {"npm-rc": BuildSecret("npm-rc", "file", "~/.npmrc")}
    assert settings.table("image.ssh") == {"default": Ssh("default"), "a": Ssh("a", ("/k", "~/l"))}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[image.secrets]\nA = "value-of-it"', "image.secrets.A: a value is never written here"),
        (
            '[image.secrets.A]\nvalue = "value-of-it"',
            "image.secrets.A.value: no such key; the keys are",
        ),
        ('[image.secrets.A]\nhosts = ["a.org"]', "image.secrets.A.hosts: no such key"),
        ("[image.secrets.A]", "the secret A needs exactly one source"),
        ('[image.secrets.A]\nfile = ".npmrc"', "image.secrets.A.file must be absolute"),
        ('[image.secrets."../x"]\nenv = "A"', "the id of a build secret"),
        ('[image]\nssh = ["a=id_rsa"]', "the path of a in image.ssh must be absolute"),
        ('[image]\nssh = ["a=~root/.ssh/id"]', "the path of a in image.ssh must be absolute"),
        ('[image]\nssh = ["-v"]', "not an SSH agent or key"),
        ('[image]\nssh = "default"', "image.ssh: input should be a valid list"),
        ('[image]\nname = "x"\nssh = ["default"]', "image.name and image.ssh exclude each other"),
    ],
)
def test_a_mistake_in_a_build_secret_is_reported_without_its_value(
    tmp_path: Path, text: str, told: str
) -> None:
    written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        gather({}, found(tmp_path))
    assert told in str(caught.value)
    assert "value-of-it" not in str(caught.value)
