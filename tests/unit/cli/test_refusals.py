"""What `bottle run` refuses for its own sake: `run --plan` and `config` refuse it in the same words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bot_bottle.cli import main

GIT = shutil.which("git") or "git"

# what is refused: bottle.toml, options, and a word of the message
REFUSED = [
    ('egress = {allow = ["*"]}', [], "'*'"),
    ('egress = {allow = ["http://example.org"]}', [], "example.org"),
    ('egress = {allow = ["a.example.org:0"]}', [], "a.example.org"),
    ('egress = {allow = ["192.0.2.9"]}', ["--accel=kvm"], "own network probes"),
    ("", ["--accel=direct", "--network=open"], "sudo apt-get install --no-install-recommends passt"),
    (
        'secrets = {KEY = {env = "M", hosts = ["a.example.org"]}}',
        ["--yes", "--accel=direct", "--network=open"],
        "need the proxy",
    ),
    ('storage = "12x"', [], "12x"),
    ('storage = "100m"', [], "256m"),
    ('storage = "1500m"', ["--accel=kvm"], "whole GiB"),
    ('backend = "docker"\nstorage = "4g"', [], "--storage does not work"),
    ('egress = {allow = ["a.example.org"], open = true}', [], "open"),
    ("", ["--network=open", "--allow=a.example.org"], "open"),
    ("", ["--network=none", "--allow=a.example.org"], "exclude"),
    ('caches = {packages = ["cargo"]}', ["--allow=a.example.org"], "crates"),
    ("", ["--cache-packages=npm", "--network=open"], "an open network has none"),
    ("", ["--cache-packages=npm", "--no-cache-packages", "--allow=npm"], "exclude"),
    ('ports = ["70000"]', [], "70000"),
    ('ports = ["53/udp"]', [], "UDP"),
    ('ports = ["8080:1", "8080:2"]', [], "published twice"),
    ('backend = "docker"\nports = ["80"]\negress = {open = true}', ["--yes"], "--publish does not work"),
    ('backend = "podman"', [], "podman"),
    ('workspace = "all"', [], "all"),
    ("", ["--workspace-include-dirty"], "--workspace clone"),
    ("cpus = 0", [], "CPUs"),
    ("cpus = 256", [], "CPUs"),
    ('memory = "4"', [], "unit"),
    ('memory = "many"', [], "many"),
    ('memory = "100m"', [], "256"),
    ('memory = "9999999g"', [], "too much"),
    ('user = "-x"', [], "-x"),
    ('workdir = "src"', [], "absolute"),
    ('env = {"A B" = "1"}', [], "A B"),
    ("", ["-e", "A B=1"], "A B"),
    ("", ["-e", f"A={'x' * 200_000}"], "too large"),
    ('backend = "docker"\nenv = {DOCKER_HOST = "x\\ny"}', [], "DOCKER_HOST"),
    ('env = {KEY = "1"}\nsecrets = {KEY = {env = "MINE"}}', ["--yes"], "given both"),
    ('secrets = {KEY = {env = "MINE", hosts = ["a.example.org"]}}', ["--yes"], "which is not allowed"),
    (
        'backend = "docker"\nsecrets = {KEY = {env = "M", hosts = ["a.example.org"]}}',
        ["--yes", "--network=open"],
        "need the proxy",
    ),
    ("", ["--secret=id=KEY,env=A,src=/b"], "exactly one source"),
    ("", ["--env=MINE=1", "--secret=id=KEY,env=MINE"], "passed on"),
    ("", ["--build-secret=id=KEY,env=A,src=/b"], "exactly one source"),
    ("", ["--ssh=a b=/c"], "a b"),
    ("", ["--build-arg=A B=1"], "A B"),
    ('image = {args = {DOCKER_HOST = "x"}}', [], "DOCKER_HOST"),
    ('image = {name = "a b"}', [], "a b"),
    ('image = {name = "busybox"}', ["--target=x"], "--target"),
    ("", ["--platform=linux/s390x"], "s390x"),
    ("", ["--platform=x"], "x"),
    ("nothing = 1", [], "nothing"),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a Dockerfile, on a machine where no engine is found."""
    for name in ("USER", "WORKDIR", "CPUS", "MEMORY", "BACKEND", "WORKSPACE", "ENGINE"):
        monkeypatch.delenv(f"BOT_BOTTLE_{name}", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MINE", "value")
    (tmp_path / ".git").mkdir()
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "options", "word"), REFUSED, ids=[f"{file} {' '.join(opts)}"[:60] for file, opts, _ in REFUSED]
)
def test_what_run_refuses_is_refused_wherever_it_is_shown(
    project: Path, capsys: pytest.CaptureFixture[str], file: str, options: list[str], word: str
) -> None:
    (project / "bottle.toml").write_text(f"{file}\n")
    ended = []
    for command in (["run"], ["run", "--plan"], ["config"]):
        status = main.run([*command, *options])
        said = capsys.readouterr()
        assert said.out == ""
        ended.append((status, said.err.replace("bottle run --help", "bottle config --help")))
    assert ended[0] == ended[1] == ended[2]
    status, words = ended[0]
    assert status in (2, 101)
    assert word in words


@pytest.mark.parametrize(
    ("file", "options", "word"),
    [
        ("", ["run", "--ask", "--network=none"], "--network none exclude"),
        ("", ["run", "--ask", "--network=open"], "--network open exclude"),
        ("egress = {open = true}", ["run", "--ask"], "--network open exclude"),
        ("", ["run", "--ask", "--accel=kvm"], "where smolvm enforces"),
        ("", ["run", "--ask", "--twin", "--workspace=clone"], "--twin and --ask"),
        ("", ["learn", "--network=none"], "bottle learn and --network none exclude"),
        ("egress = {open = true}", ["learn"], "bottle learn and --network open exclude"),
        ("", ["learn", "--ask", "--accel=nested"], "where smolvm enforces"),
        ("", ["learn", "x", "y"], "bottle learn PATH -- CMD"),
    ],
)
def test_questions_and_learning_are_refused_where_they_would_do_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], file: str, options: list[str], word: str
) -> None:
    (project / "bottle.toml").write_text(f"{file}\n")
    assert main.run([*options, "--yes"]) in (2, 101)
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["-d"], ["-it"]])
def test_without_a_terminal_nobody_can_be_asked(project: Path, options: list[str]) -> None:
    command = ["run", "--ask", "--backend=docker", *options, ".", "--", "true"]
    argv = [sys.executable, "-m", "bot_bottle", *command]
    done = subprocess.run(argv, capture_output=True, text=True, start_new_session=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("bottle: --ask needs a terminal\n")
    assert "--allow" in done.stderr


def test_what_can_be_run_is_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "bottle.toml").write_text('egress = {allow = ["a.example.org"], open = false}\n')
    assert main.run(["config"]) == 0
    assert "a.example.org" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (["--workspace=clone"], 116, "no commit"),
        (["--backend=docker", "--file=nowhere"], 101, "nowhere"),
    ],
)
def test_a_plan_refuses_folders_as_run_does(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    word: str,
) -> None:
    subprocess.run([GIT, "init", "-q", project], check=True)
    (project / "bin").mkdir()
    (project / "bin" / "git").symlink_to(GIT)
    ended = []
    for command in (["run", "-q"], ["run", "-q", "--plan"]):
        ended.append((main.run([*command, *options]), capsys.readouterr().err))
    assert ended[0] == ended[1]
    assert ended[0][0] == status
    assert word in ended[0][1]
