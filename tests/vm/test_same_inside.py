"""A microVM that QEMU emulates looks from inside as smolvm's does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.bottle import Bottle
from tests.support.engines import CHECKOUT, Docker

FACTS = Path(__file__).parents[1] / "support" / "facts.sh"
# what differs, in the words of docs/backends.md
DIFFERENT = {
    "mount /.bottle": "tools of the probes",
    "mount /run/smolvm/init": "first process",
    "mount /etc/hosts": "`/etc/hosts`",
    "mount /etc/resolv.conf": "`/etc/resolv.conf`",
}


@pytest.mark.slow  # for the boot of smolvm's
@pytest.mark.timeout(900)
def test_a_command_finds_the_same_in_an_emulated_microvm_and_in_smolvms(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path
) -> None:
    docker.docker("save", "--output", str(tmp_path / "image.tar"), image)
    bottle = Bottle(shared_cache, {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"), "TERM": "xterm"})

    def facts(accel: str) -> dict[str, str]:
        own = ("-q", "--accel", accel, "--cpus", "1", "-m", "512m", "--name", "same")
        source = ("--archive", tmp_path / "image.tar")
        ended = bottle("run", *own, *source, "--", "sh", "-c", FACTS.read_text(), timeout=600)
        assert ended.code == 0, ended
        lines = (line.partition(": ") for line in ended.out.splitlines())
        return {name: value for name, _, value in lines}

    direct, nested = facts("direct"), facts("nested")
    assert len(nested) > 80
    differs = {name for name in direct.keys() | nested.keys() if direct.get(name) != nested.get(name)}
    assert differs == DIFFERENT.keys(), {name: (direct.get(name), nested.get(name)) for name in differs}
    table = (CHECKOUT / "docs/backends.md").read_text()
    assert [words for words in DIFFERENT.values() if f"| {words} |" not in table] == []
