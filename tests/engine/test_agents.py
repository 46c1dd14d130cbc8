"""Agents in containers: one of a test's own from a registry of the tests, and the real ones from npm."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pexpect
import pytest

from bot_bottle.bottle.gc import run_context
from bot_bottle.engine.engine import BuildRequest, find_engine
from bot_bottle.engine.layers import libc_of
from bot_bottle.errors import AgentError
from tests.support import bottle as bottles
from tests.support.agents import KEY, bodies, debian_image, hold_work_came_back, in_world, repository, sent
from tests.support.bottle import Bottle, end
from tests.support.canary import holders
from tests.support.engines import Docker, Podman
from tests.support.images import busybox_context
from tests.support.model_server import LAST
from tests.support.npm_registry import archive, fake_registry
from tests.support.repos import Repo, make_repo
from tests.support.web_proxy import proxy_for_builds
from tests.support.world import World

PROFILE = """
version = "1.0.0"
release = "mine"
command = ["--yes"]
headless = ["{args}", "--do", "{prompt}"]
headless_json = ["--json", "{prompt}"]
hosts = ["api.example.org:443"]
[env]
MODE = "on"
[seed.".mine"]
content = "${KEY}"
needs = ["KEY"]
[credentials.KEY]
hosts = ["api.example.org"]
env = "MY_KEY"
[[packages]]
name = "mine"
program = ["agent"]
integrity = "HASH"
"""
PROGRAM = b'#!/bin/sh\necho "$MODE" "$@"; cut -c 1-12 "$HOME/.mine"\n'
REMEMBERS = b"""#!/bin/sh
cat "$HOME/.history/one" 2>/dev/null || echo nothing
cut -c 1-12 "$HOME/.mine"
stat -c '%u %a' "$HOME/.history/one" 2>/dev/null
mkdir -p "$HOME/.history"
echo "$2" >> "$HOME/.history/one"
ln -s /etc/passwd "$HOME/.history/link"
echo planted > "$HOME/.mine"
[ "$2" != long ] || { echo ready; exec sleep 1000; }
exit 3
"""
TOOLS = """
for each in git cc make curl jq less node npm ssh patch ps python3 pip3 rg unzip xz claude; do
  command -v $each > /dev/null || echo "no $each"
done
pwd
test -w "$HOME" && test -s /etc/ssl/certs/ca-certificates.crt && echo writable home
python3 -m venv /tmp/venv && /tmp/venv/bin/python -c 'print("hello")'
"""
CONTINUE = {
    "claude": ("--continue",),
    "codex": ("resume", "--last"),
    "gemini": ("--resume", "latest"),
    "opencode": ("--continue",),
}
REAL = {
    "claude": ("ANTHROPIC_API_KEY", "2.1.332 (Claude Code)"),
    "codex": ("OPENAI_API_KEY", "codex-cli 0.171.0"),
    "gemini": ("GEMINI_API_KEY", "0.61.0"),
    "opencode": ("ANTHROPIC_API_KEY", "1.18.18"),
}


def test_an_agent_is_put_on_any_image_once(bottle: Bottle, image: str, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "bot-bottle" / "agents"
    folder.mkdir(parents=True)
    with fake_registry() as registry:
        found = registry.add("mine", "1.0.0", archive({"agent": PROGRAM}))
        (folder / "mine.toml").write_text(PROFILE.replace("HASH", found))
        changes = {
            "XDG_CONFIG_HOME": str(tmp_path / "config"), "npm_config_registry": registry.url,
            "npm_config_userconfig": str(tmp_path / "npmrc"), "MY_KEY": KEY,
        }  # fmt: skip
        own = replace(bottle, changes={**bottle.changes, **changes})
        given = ("run", "--backend=docker", "--workspace=none", "--agent=mine", "--image", image)
        both = [own.start(*given, f"--name={name}") for name in ("red", "blue")]
        for done in map(end, both):
            assert (done.code, done.out) == (0, "on --yes\nBOTTLE_PLACE\n"), done
    made = {json.loads(own("show", "--json", name).out)["image_id"] for name in ("red", "blue")}
    assert len(made) == 1
    asked = own(*given, "-p", "fix it", "-e", "MODE=off")
    assert asked.out == "off --do fix it\nBOTTLE_PLACE\n", asked
    assert "cached  mine 1.0.0" in asked.err
    other = own(*given, "--", "sh", "-c", "mine x; env")
    assert other.out.startswith("on x\nBOTTLE_PLACE\n"), other
    assert KEY not in other.out + other.err
    plan = json.loads(own(*given, "--plan", "--json").out)
    assert plan["egress"]["allow"] == ["api.example.org:443"]
    without = own(*given, env={"MY_KEY": None})
    assert "no login for mine; set MY_KEY" in without.err
    assert holders(KEY.encode()) == []


def test_a_bottle_gets_the_history_of_its_agents_earlier_ones(
    bottle: Bottle, image: str, tmp_path: Path
) -> None:
    folder = tmp_path / "config" / "bot-bottle" / "agents"
    folder.mkdir(parents=True)
    repos = [make_repo(tmp_path / name) for name in ("a", "b")]
    for repo in repos:
        repo.commit()
    with fake_registry() as registry:
        found = registry.add("mine", "1.0.0", archive({"agent": REMEMBERS}))
        text = PROFILE.replace("HASH", found).replace("command", 'state = [".history", ".mine"]\ncommand')
        (folder / "mine.toml").write_text(text)
        (folder / "other.toml").write_text('extends = "mine"\n')
        changes = {
            "XDG_CONFIG_HOME": str(tmp_path / "config"), "npm_config_registry": registry.url,
            "npm_config_userconfig": str(tmp_path / "npmrc"), "MY_KEY": KEY,
            "BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"),
        }  # fmt: skip
        own = replace(bottle, changes={**bottle.changes, **changes})

        def given(prompt: str, *options: str) -> tuple[str, ...]:
            named = () if "--agent=other" in options else ("--agent=mine",)
            chosen = ("--backend=docker", "--user=1000", *named, *options, "--image", image)
            return ("run", "-q", *chosen, "-p", prompt)

        def ran(prompt: str, *options: str, repo: Repo = repos[0]) -> str:
            done = own(*given(prompt, *options), cwd=repo.top)
            assert (done.code, done.err) == (3, ""), done
            return done.out

        nothing = "nothing\nBOTTLE_PLACE\n"
        assert ran("first") == nothing
        with own.start(*given("long"), cwd=repos[0].top) as killed:
            assert killed.stdout is not None
            seen = "first\nBOTTLE_PLACE\n1000 600\n"
            assert "".join(iter(killed.stdout.readline, "ready\n")) == seen
            killed.kill()
        assert ran("second") == seen
        assert ran("x", repo=repos[1]) == ran("x", "--agent=other") == ran("x", "--no-state") == nothing
    shown = own("agents", "show", "mine", cwd=repos[0].top)
    assert f"1 file, 13 B for {repos[0].top}" in shown.out, shown
    assert own("rm", "--state", "--agent=mine", cwd=repos[0].top).line == "mine"
    assert json.loads(own("agents", "show", "--json", "mine", cwd=repos[0].top).out)["kept"] is None


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_the_c_library_of_an_image_is_found(
    name: str, docker: Docker, podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (podman if name == "podman" else docker).variables.items():
        monkeypatch.setenv(variable, value)
    engine = find_engine(name)

    def found(files: str) -> str:
        text = f"FROM scratch\nCOPY rootfs /\nENV PATH=/usr/bin:/bin\nRUN rm -rf /lib64 /lib/ld-*; {files}\n"
        folder = busybox_context(tmp_path / name / str(len(files)), text)
        image = engine.build_image(BuildRequest(folder), lambda _: None)
        with run_context() as run:
            return libc_of(engine, image, "amd64", run)

    musl = "mkdir -p /lib /lib64 && touch /lib/ld-musl-x86_64.so.1"
    assert found(f"{musl} && ln -s /lib/libgcompat.so.0 /lib64/ld-linux-x86-64.so.2") == "musl"
    assert found(f"{musl} && touch /lib64/ld-linux-x86-64.so.2") == "glibc"
    with pytest.raises(AgentError, match="neither glibc nor musl"):
        found("true")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("agent", REAL)
def test_a_real_agent_repairs_a_test_and_the_next_one_continues_its_conversation(
    bottle: Bottle, base: str, outside: World, shared_cache: Path, tmp_path: Path, agent: str
) -> None:
    variable, version = REAL[agent]
    there = repository(tmp_path / "repo", base)
    shown = bottle(agent, "--backend=docker", there.top, "--", "--version", timeout=900)
    assert (shown.code, shown.out.strip()) == (0, version), shown
    outside.forget()
    own = in_world(bottle, outside, **{variable: KEY})
    done = own(agent, "--backend=docker", "--name=blue", there.top, "-p", "Make the test pass.", timeout=600)
    hold_work_came_back(own, there, "blue", done)
    refused = own("logs", "--egress", "blue")
    # codex asks for news of its subscriptions, and may hang up early; opencode asks for plugins; both go on
    usual = {"codex": r"chatgpt\.com:443|Client disconnected", "opencode": ""}.get(agent, "(?!)")
    assert not [line for line in refused.out.splitlines() if not re.search(usual, line)], refused
    assert not any(KEY in line for line in holders(KEY.encode()))
    headers = {"claude": "x-api-key", "opencode": "x-api-key", "gemini": "x-goog-api-key"}
    values = sent(outside, headers.get(agent, "authorization"))
    assert values == {f"Bearer {KEY}" if agent == "codex" else KEY}
    outside.forget()
    again = own(agent, "--backend=docker", there.top, "-p", "And now?", "--", *CONTINUE[agent], timeout=600)
    assert (again.code, LAST in again.out) == (0, True), again
    assert any("Make the test pass." in each and "And now?" in each for each in bodies(outside)), again
    assert not any(KEY in line for line in holders(KEY.encode()))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_agent_works_without_a_dockerfile_in_an_image_of_ours(
    bottle: Bottle, docker: Docker, outside: World, shared_cache: Path, tmp_path: Path
) -> None:
    there = repository(tmp_path / "repo", "scratch")
    there.git("rm", "-q", "Dockerfile")
    there.commit(message="two")
    dockerfile = resources.files("bot_bottle.agent") / "image" / "Dockerfile"
    [name] = re.findall(r"(?m)^FROM (\S+)$", dockerfile.read_text())
    with debian_image(docker, name), proxy_for_builds(docker, tmp_path / "docker") as changes:
        own = in_world(bottle, outside, ANTHROPIC_API_KEY=KEY, **changes)
        shown = bottle("claude", "--backend=docker", there.top, "--", "--version", env=changes, timeout=2000)
        assert (shown.code, shown.out.strip()) == (0, REAL["claude"][1]), shown
        assert "no Dockerfile: using bottle's own image, Debian with git and build tools" in shown.err
        tools = own("run", "-q", "--agent=claude", "--backend=docker", there.top, "--", "sh", "-c", TOOLS)
        assert (tools.code, tools.out) == (0, "/workspace\nwritable home\nhello\n"), tools
        done = own("claude", "--backend=docker", "--name=blue", there.top, "-p", "Make the test pass.")
        hold_work_came_back(own, there, "blue", done)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_claude_asks_nothing_at_its_start_and_leaves_the_terminal_usable(
    bottle: Bottle, base: str, outside: World, shared_cache: Path, tmp_path: Path
) -> None:
    there = repository(tmp_path / "repo", base)
    own = in_world(bottle, outside, ANTHROPIC_API_KEY=KEY, TERM="xterm-256color")
    argv = [*own.prefix, str(bottles.PROGRAM), "claude", "--backend=docker", "--name=red", str(there.top)]
    shown = io.StringIO()
    child = pexpect.spawn(
        argv[0], argv[1:], env=own.env(), dimensions=(40, 120), timeout=300, encoding="utf-8"
    )
    child.logfile_read = shown
    child.expect(r"bypass.{0,20}permissions.{0,20}on")  # below the first prompt, after all questions
    text = re.sub(r"\x1b\[[0-9;?<>=]*[A-Za-z]", "", shown.getvalue())
    assert not re.search(r"trust|custom API key|[Ll]ogin method|text style", text), text
    assert own("stop", "red").code == 0
    child.expect_exact("\x1b[<99u")
    child.expect(pexpect.EOF)
