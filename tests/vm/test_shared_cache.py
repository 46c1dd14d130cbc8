"""A microVM of an artifact that another machine has made."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.bottle import Bottle
from tests.support.docker_registry import docker_registry
from tests.support.engines import Docker

SCRIPT = 'cat; id -u; pwd; echo "$GREETING"; exit 7'


def machine(folder: Path, settings: str) -> Bottle:
    """A machine with a home, and no engine: it can use an archive, and what others have made of it."""
    own = folder / "config" / "bot-bottle"
    own.mkdir(parents=True)
    (own / "config.toml").write_text(f"[cache]\n{settings}")
    places = {
        "DOCKER_HOST": f"unix://{folder}/nothing.sock",
        "DOCKER_CONFIG": str(folder / "docker"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "BOT_BOTTLE_STATE_DIR": str(folder / "state"),
    }
    return Bottle(folder / "cache", places)


def test_an_artifact_from_the_shared_cache_that_a_trusted_key_signed_boots(
    docker: Docker, image: str, tmp_path: Path
) -> None:
    archive, key = tmp_path / "image.tar", tmp_path / "key"
    docker.docker("save", "--output", str(archive), image)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=60)
    (tmp_path / "signers").write_text(f"ci@example.org {key.with_suffix('.pub').read_text()}")
    with docker_registry(tmp_path) as port:
        remote = f'remote = "127.0.0.1:{port}/team/bottles"\n'
        ci = machine(tmp_path / "ci", f'{remote}sign = "{key}"\n')
        laptop = machine(tmp_path / "laptop", f'{remote}trust = "{tmp_path}/signers"\n')
        made = ci("pack", "--cache-push", "--archive", archive).path
        argv = ("run", "--accel", "direct", "-m", "512m", "--archive", archive, "--", "sh", "-c", SCRIPT)
        ended = laptop(*argv, timeout=200)
    assert (ended.code, ended.out.splitlines()) == (7, ["1000", "/home/agent", "two words"]), ended
    stages = [line.split()[0] for line in ended.err.splitlines()]
    assert "pull" in stages
    assert "pack" not in stages
    [fetched] = laptop.artifacts
    assert fetched.read_bytes() == made.read_bytes()
    assert laptop.leftovers == []
