"""scripts/setup, as make calls it, and what the engine that make starts is good for."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.engines import CHECKOUT, Docker


def test_a_published_port_answers_on_loopback(docker: Docker, base_image: str) -> None:
    """The private engine writes no firewall rules; docker's own proxy carries the connection."""
    serve = "while true; do echo hello | nc -l -p 5000; done"
    container = docker.docker("run", "-d", "--rm", "-p", "127.0.0.1::5000", base_image, "sh", "-c", serve)
    try:
        address, _, port = (
            docker.docker("port", container.decode().strip(), "5000").decode().strip().rpartition(":")
        )
        answer = subprocess.run(["busybox", "nc", "-w", "5", address, port], capture_output=True, timeout=20)
        assert answer.stdout == b"hello\n"
    finally:
        docker.docker("rm", "--force", container.decode().strip())


def test_setup_with_nothing_to_do_says_nothing() -> None:
    setup = [str(CHECKOUT / "scripts" / "setup"), "test"]
    subprocess.run(setup, check=True, timeout=300)
    done = subprocess.run(setup, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def without(folder: Path, *names: str) -> str:
    """Give a PATH that has every program of the system but these."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            if program.name not in names and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("skopeo",), "Next: run: sudo apt-get install --no-install-recommends skopeo"),
        (("skopeo", "apt-get"), "this machine has no apt-get"),
    ],
)
def test_setup_that_cannot_install_says_what_to_do(missing: tuple[str, ...], words: str) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(CHECKOUT / "scripts", folder / "scripts")
        done = subprocess.run(
            [*(nobody if os.geteuid() == 0 else []), str(folder / "scripts" / "setup"), "test"],
            env={"PATH": without(folder / "bin", *missing), "PYTHON": "/usr/bin/python3"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert words in done.stderr
