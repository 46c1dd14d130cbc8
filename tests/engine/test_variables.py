"""Variables of a container's command: any value arrives as it is, or is refused before anything starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.bottle import PROGRAM, Bottle
from tests.support.engines import Docker, Podman
from tests.support.images import busybox_context

LARGEST = (127 << 10) - 100
VALUES: dict[str, bytes] = {
    "EMPTY": b"",
    "QUOTED": b"\"two\" 'one' `three`",
    "BACKSLASH": rb"a\nb\\ \"",
    "SPACES": b"  in front and behind  ",
    "HASH": b"#no comment # none",
    "EQUALS": b"=a=b=",
    "DOLLAR": b"$HOME ${PATH} $(id)",
    "STAR": b"*",
    "TAB": b"\tx\ty",
    "CONTROL": b"\x01\x1b[31m\x7f\x0b\x0c",
    "LINES": b"first\nsecond=2\n\n# fourth\n",
    "CARRIAGE": b"a\r\nb\r",
    "ACCENT": "é ü 語 🙂".encode(),
    "BOM": b"\xef\xbb\xbfx",
    "LONG": b"a" * ((64 << 10) - len("LONG=")),
    "LONGER": b"b" * (64 << 10),
    "LARGE": b"c" * LARGEST,
    "LARGE_LINES": b"d\n" * (LARGEST // 2),
}


def shown(bottle: Bottle, command: str, *options: str) -> dict[bytes, bytes]:
    """The variables of a command in a bottle, as its kernel has them."""
    argv = [str(PROGRAM), command, *options, *(f"--env={name}" for name in VALUES)]
    program = ["cat", "/proc/self/environ"]
    argv += ["victim", *program] if command == "exec" else ["--", *program]
    env = {os.fsencode(name): os.fsencode(value) for name, value in bottle.env().items()}
    env |= {os.fsencode(name): value for name, value in VALUES.items()}
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    pairs = (item.partition(b"=") for item in done.stdout.split(b"\0") if item)
    return {name: value for name, _, value in pairs}


def hold(found: dict[bytes, bytes]) -> None:
    wrong = [name for name, value in VALUES.items() if found.get(name.encode()) != value]
    assert wrong == []


@pytest.fixture
def podman_image(podman: Podman, tmp_path: Path) -> str:
    return podman.build(busybox_context(tmp_path / "image"))


def test_every_value_arrives_with_docker(bottle: Bottle, image: str) -> None:
    hold(shown(bottle, "run", "-q", "--backend=docker", "--image", image))
    assert bottle.leftovers == []


def test_every_value_arrives_with_podman(podman_bottle: Bottle, podman_image: str) -> None:
    options = ("-q", "--backend=docker", "--engine=podman", "--image", podman_image)
    hold(shown(podman_bottle, "run", *options))
    assert podman_bottle.leftovers == []


def test_every_value_arrives_in_another_command(bottle: Bottle, image: str, docker: Docker) -> None:
    del docker
    detached = ("run", "-q", "-d", "--backend=docker", "--name=victim", "--image", image)
    started = bottle(*detached, "--", "sleep", "600")
    assert started.code == 0, started
    try:
        hold(shown(bottle, "exec"))
    finally:
        assert bottle("stop", "victim").code == 0


@pytest.mark.parametrize("command", [("run", "-q", "--backend=docker", "--image", "none"), ("exec", "none")])
def test_a_variable_that_is_no_text_is_refused(bottle: Bottle, command: tuple[str, ...]) -> None:
    env = {os.fsencode(name): os.fsencode(value) for name, value in bottle.env().items()} | {
        b"BYTES": b"\xff"
    }
    argv = [str(PROGRAM), command[0], "--env=BYTES", *command[1:], *(["true"] if "exec" in command else [])]
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 101, done
    assert b"the variable BYTES is not UTF-8 text" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTPS_PROXY", "a\nb", "HTTPS_PROXY must be one line"),
        ("DOCKER_HOST", "x" * (40 << 10), "DOCKER_HOST must be one line"),
        ("TOO_LARGE", "x" * (127 << 10), "TOO_LARGE is too large"),
    ],
)
def test_a_variable_that_cannot_be_passed_is_refused_before_anything_is_built(
    bottle: Bottle, tmp_path: Path, name: str, value: str, words: str
) -> None:
    lines = value.replace("\n", "\\n")
    (tmp_path / "bottle.toml").write_text(f'[env]\n{name} = "{lines}"\n')
    (tmp_path / "Dockerfile").write_text("FROM does-not-exist\n")
    bottle("run", "--backend=docker", tmp_path).failed(101, words, "Next: ")
