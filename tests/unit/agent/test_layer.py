"""The layer of an agent: fetched from a registry, verified, the same bytes each time, and nothing hostile."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.npm_registry import FakeRegistry, archive, fake_registry, integrity

from bot_bottle.agent.choice import choose
from bot_bottle.agent.layer import Layer, make_layer
from bot_bottle.agent.npm import Registry
from bot_bottle.agent.npmrc import Npmrc, read_npmrc
from bot_bottle.cli.main import bottle
from bot_bottle.errors import AgentError
from bot_bottle.host.progress import Progress

PROGRAM = b'#!/bin/sh\necho "$MODE $KEY" "$@"; cat "$HOME/.mine/settings" "$HOME/.mine.json"\n'
PROFILE = """
version = "1.0.0"
release = "@mine/agent"
command = ["--yes"]
[env]
MODE = "it's on"
[seed.".mine/settings"]
content = "key ${KEY} end ${KEY: -4}\\n"
needs = ["KEY"]
[seed.".mine.json"]
content = '''{"a": "$b'"}'''
[[packages]]
name = "@mine/agent-linux"
integrity = "HASH"
program = ["bin/agent"]
path = ["tools"]
"""


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as made:
        yield made


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry) -> Path:
    """The folder of the user's own profiles, of a user whose npm has this registry."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in list(os.environ):
        if name.lower().startswith("npm_config_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    (tmp_path / "npmrc").write_text(f"@mine:registry={registry.url}\nregistry=http://127.0.0.1:1/\n")
    folder = tmp_path / "config" / "bot-bottle" / "agents"
    folder.mkdir(parents=True)
    return folder


def add(own: Path, registry: FakeRegistry, data: bytes) -> None:
    """Serve a package, and write a profile that has it."""
    found = registry.add("@mine/agent-linux", "1.0.0", data)
    registry.add("@mine/agent", "1.0.0", archive({}))
    (own / "mine.toml").write_text(PROFILE.replace("HASH", found))


def layer(name: str = "mine") -> Layer:
    return make_layer(choose(name), "amd64", None, Progress("quiet"))


def test_a_layer_is_made_once_of_verified_files_and_starts_the_agent(
    own: Path, registry: FakeRegistry, tmp_path: Path
) -> None:
    add(own, registry, archive({"bin/agent": PROGRAM, "README": b"x", "tools/helper": b"#!/bin/sh\n"}))
    made = layer()
    asked = len(registry.seen)
    assert layer().packages.read_bytes() == made.packages.read_bytes()
    assert len(registry.seen) == asked == 2
    root = tmp_path / "root"
    for tar in (made.packages, tmp_path / "launcher.tar"):
        if not tar.exists():
            tar.write_bytes(made.launcher)
        with tarfile.open(tar) as opened:
            assert {(each.mtime, each.uid, each.gid) for each in opened} == {(0, 0, 0)}
            assert all(each.name.startswith("opt/bot-bottle") for each in opened)
            opened.extractall(root, filter="data")
    place = root / "opt/bot-bottle/packages/mine-agent"
    assert (place / "README").stat().st_mode & 0o111 == 0
    script = (root / "opt/bot-bottle/bin/mine").read_text().replace("/opt/", f"{root}/opt/")
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "KEY": "secret-1234", "PATH": os.environ["PATH"]}
    argv = ["sh", "-c", script, "agent", "a b"]
    out = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
    assert out == 'it\'s on secret-1234 a b\nkey secret-1234 end 1234\n{"a": "$b\'"}'
    assert (home / ".mine/settings").stat().st_mode & 0o077 == 0
    (home / ".mine/settings").write_text("mine\n")
    again = subprocess.run(argv, env={**env, "MODE": "off"}, capture_output=True, text=True, check=True)
    assert again.stdout.startswith("off secret-1234 a b\nmine\n")


def test_another_package_than_the_pinned_one_is_refused(own: Path, registry: FakeRegistry) -> None:
    data = archive({"bin/agent": PROGRAM})
    add(own, registry, data)
    registry.lies["@mine/agent-linux"] = archive({"bin/agent": b"#!/bin/evil\n"})
    with pytest.raises(AgentError, match="is not the package that was pinned"):
        layer()
    registry.add("@mine/agent-linux", "1.0.0", archive({"bin/agent": b"#!/bin/other\n"}))
    with pytest.raises(AgentError, match="is not the package that was pinned"):
        layer()
    registry.lies.clear()
    registry.add("@mine/agent-linux", "1.0.0", data)
    assert layer().packages.exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (member("package/../../etc/passwd"), "a path that leads outside"),
        (member("/etc/passwd"), "a path that leads outside"),
        (member("package"), "a path that leads outside"),
        (member("package/x", tarfile.SYMTYPE, "/etc"), "a link or a device"),
        (member("package/x", tarfile.LNKTYPE, "package/bin/agent"), "a link or a device"),
        (member("package/x", tarfile.CHRTYPE), "a link or a device"),
        (member("package/bin/agent"), "two members with one path"),
        (member("package/bin/agent/x"), "two members with one path"),
    ],
)
def test_hostile_members_are_refused(
    own: Path, registry: FakeRegistry, extra: tarfile.TarInfo, said: str
) -> None:
    add(own, registry, archive({"bin/agent": PROGRAM}, extra=(extra,)))
    with pytest.raises(AgentError) as caught:
        layer()
    assert said in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"not gzip", archive({"bin/agent": PROGRAM})[:-30]])
def test_damaged_archives_are_explained(own: Path, registry: FakeRegistry, data: bytes) -> None:
    add(own, registry, data)
    with pytest.raises(AgentError) as caught:
        layer()
    assert "mine/agent-linux@1.0.0" in str(caught.value)


def test_a_version_without_known_hashes_is_recorded_and_has_to_stay(
    own: Path, registry: FakeRegistry
) -> None:
    add(own, registry, archive({"bin/agent": PROGRAM}))
    registry.add("@mine/agent-linux", "1.1.0", archive({"bin/agent": PROGRAM, "new": b""}))
    layer("mine@1.1.0")
    again = choose("mine@1.1.0")
    assert list(again.hashes_for("amd64")) == ["@mine/agent-linux@1.1.0"]
    registry.add("@mine/agent-linux", "1.1.0", archive({"bin/agent": PROGRAM, "other": b""}))
    layer("mine@1.1.0").folder.rename(own / "gone")
    with pytest.raises(AgentError, match="is not the package that was pinned"):
        layer("mine@1.1.0")


def test_update_takes_the_newest_version_and_its_hashes(own: Path, registry: FakeRegistry) -> None:
    add(own, registry, archive({"bin/agent": PROGRAM}))
    assert CliRunner().invoke(bottle, ["agents", "update", "mine"]).output == "mine: 1.0.0 is the newest\n"
    data = archive({"bin/agent": PROGRAM, "new": b""})
    registry.add("@mine/agent", "1.2.0", archive({}))
    registry.add("@mine/agent-linux", "1.2.0", data)
    assert CliRunner().invoke(bottle, ["agents", "update", "mine"]).output == "mine: 1.0.0 -> 1.2.0\n"
    found = choose("mine")
    assert (found.version, found.origin) == ("1.2.0", "bottle agents update")
    assert found.hashes_for("amd64") == {"@mine/agent-linux@1.2.0": integrity(data)}


def test_tokens_go_to_their_registry_alone_and_are_in_no_error(
    own: Path, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(own, registry, archive({"bin/agent": PROGRAM}))
    registry.token = "npm_s3cretvalue"  # noqa: S105 - made up
    with pytest.raises(AgentError, match=r"refuses to hand out .* \(401\)"):
        layer()
    place = registry.url.removeprefix("http:")
    monkeypatch.setenv("MY_TOKEN", "npm_s3cretvalue")
    with (tmp_path / "npmrc").open("a") as file:
        file.write(f"; comment\n{place}:_authToken=${{MY_TOKEN}}\n//other.example/:_authToken=another\n")
    layer()
    assert {token for _, token in registry.seen[1:]} == {"Bearer npm_s3cretvalue"}
    assert "s3cret" not in repr(read_npmrc())
    settings = read_npmrc()
    assert settings.authorization("http://127.0.0.2/x") is None
    found = settings.authorization("https://other.example/a/b")
    assert found is not None
    assert found.reveal() == "Bearer another"


def test_settings_of_npm_are_honoured(monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://packages.example/npm")
    monkeypatch.setenv("npm_config_https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("npm_config_noproxy", "example.net, .lan")
    found = read_npmrc()
    assert found.registry("left-pad") == "https://packages.example/npm/"
    assert found.registry("@mine/x") == registry.url
    assert found.proxies == {"https": "http://proxy.example:3128"}
    assert [found.is_direct(host) for host in ("a.example.net", "x.lan", "badexample.net")] == [1, 1, 0]
    with pytest.raises(AgentError, match="cannot be used"):
        Npmrc({"registry": "file:///etc"}).registry("x")
    with pytest.raises(AgentError, match="cannot be fetched from 127"):
        Registry(Npmrc({"registry": "http://127.0.0.1:1"})).find("x", "latest")
