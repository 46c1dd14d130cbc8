"""The cache between processes: one makes, the others wait; a killed one leaves nothing that is believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.cache import find_or_make

from bot_bottle.cache.cache import Cache, Key
from bot_bottle.smolmachine.format import digest_of

# argv: cache folder, artifact to copy, file to write to when making, file to wait for halfway
MAKER = """
import sys, time
from pathlib import Path
from bot_bottle.image.spec import Digest
from bot_bottle.cache.cache import Cache, Key
folder, artifact, mark, go = map(Path, sys.argv[1:5])
def make(path):
    data = artifact.read_bytes()
    with path.open("wb") as file, mark.open("a") as log:
        file.write(data[:len(data) // 2]); file.flush()
        log.write(f"{path}\\n"); log.flush()
        while not go.exists():
            time.sleep(0.01)
        file.write(data[len(data) // 2:])
key = Key(Digest.of(b"image"), "linux/amd64", "native", "1.32.2", 1, 1)
entry = Cache(folder).find(key)
if not entry:
    with Cache(folder).locked(key, source="s", on_wait=lambda text: print(text, flush=True)) as slot:
        entry = slot.entry or slot.publish(make(slot.path))
print("hit" if entry.hit else "made", entry.digest)
"""


class Makers:
    def __init__(self, cache: Cache, artifact: Path, mark: Path) -> None:
        self.cache, self.artifact, self.mark = cache, artifact, mark
        self.go = mark.with_name("go")
        self.running: list[subprocess.Popen[str]] = []

    def start(self, program: str = MAKER) -> subprocess.Popen[str]:
        files = (self.cache.folder, self.artifact, self.mark, self.go)
        argv = [sys.executable, "-c", program, *map(str, files)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def made(self) -> list[str]:
        return self.mark.read_text().splitlines() if self.mark.exists() else []

    def wait_for_one_at_work(self) -> Path:
        wait_until(self.made)
        return Path(self.made()[0])


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def makers(cache: Cache, artifact: Path, tmp_path: Path) -> Makers:
    return Makers(cache, artifact, tmp_path / "made")


@pytest.fixture(autouse=True)
def _ended(makers: Makers) -> object:
    yield
    for process in makers.running:
        process.kill()
        process.communicate()


def test_two_at_once_make_one_artifact(makers: Makers) -> None:
    first = makers.start()
    makers.wait_for_one_at_work()
    others = [makers.start() for _ in range(3)]
    assert all("waiting" in said(other) for other in others)
    makers.go.touch()
    assert first.communicate(timeout=60)[0].startswith("made ")
    digest = digest_of(makers.artifact)
    for other in others:
        assert other.communicate(timeout=60)[0] == f"hit {digest}\n"
    assert len(makers.made()) == 1


def test_many_at_once_make_one_artifact(makers: Makers) -> None:
    makers.go.touch()
    answers = [process.communicate(timeout=60)[0] for process in [makers.start() for _ in range(8)]]
    assert sorted(answer.splitlines()[-1].split()[0] for answer in answers) == ["hit"] * 7 + ["made"]
    assert len(makers.made()) == 1
    assert makers.cache.verify() == ()


def test_a_killed_maker_leaves_nothing_that_is_believed(makers: Makers, key: Key) -> None:
    process = makers.start()
    scrap = makers.wait_for_one_at_work()
    waiting = makers.start()
    assert "waiting" in said(waiting)
    assert scrap.exists()
    process.send_signal(signal.SIGKILL)
    makers.go.touch()
    assert waiting.communicate(timeout=60)[0] == f"made {digest_of(makers.artifact)}\n"
    assert makers.cache.list()[0].path.read_bytes() == makers.artifact.read_bytes()
    process.wait(timeout=30)
    # a scrap that was there before the next use began goes with that use
    entry = find_or_make(makers.cache, key, lambda _path: None, source="", on_wait=print)
    assert entry.hit
    assert not scrap.parent.exists()
    assert {path.suffix for path in makers.cache.folder.iterdir()} == {".smolmachine", ".json", ".lock"}


def test_a_terminated_maker_cleans_up(makers: Makers) -> None:
    process = makers.start(f"from bot_bottle.host import signals; signals.install()\n{MAKER}")
    makers.wait_for_one_at_work()
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=30)
    assert "Interrupted" in complaint
    assert [path.suffix for path in makers.cache.folder.iterdir()] == [".lock"]


def test_an_entry_that_another_process_holds_is_not_pruned(makers: Makers) -> None:
    makers.go.touch()
    makers.start().communicate(timeout=60)
    holder = (
        "import sys; from pathlib import Path; from bot_bottle.cache.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).list()[0].hold(): print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", holder, str(makers.cache.folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        pruned = makers.cache.prune(keep_bytes=0)
        assert (len(pruned.removed), len(pruned.in_use)) == (0, 1)
        os.kill(process.pid, signal.SIGKILL)
    assert len(makers.cache.prune(keep_bytes=0).removed) == 1


def test_finding_while_another_prunes_gives_a_whole_artifact(makers: Makers, key: Key) -> None:
    """Whoever asks while another prunes gets a sound artifact every time."""
    program = (
        "import sys; from pathlib import Path; from bot_bottle.cache.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1])); print(flush=True)\n"
        "while True: cache.prune(keep_bytes=0)"
    )
    pruner = subprocess.Popen(
        [sys.executable, "-c", program, str(makers.cache.folder)], stdout=subprocess.PIPE, text=True
    )
    makers.running.append(pruner)
    assert pruner.stdout is not None
    pruner.stdout.readline()
    data = makers.artifact.read_bytes()

    def make(path: Path) -> None:
        path.write_bytes(data)

    made = asked = 0
    limit = time.monotonic() + 60
    while (asked < 50 or made < 5) and time.monotonic() < limit:
        asked += 1
        entry = find_or_make(makers.cache, key, make, source="", on_wait=lambda _text: None)
        made += not entry.hit
        assert entry.digest == digest_of(makers.artifact)
    assert made >= 5
    assert pruner.poll() is None
