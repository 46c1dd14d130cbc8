"""Archives that are still being written: each layer is given when it is there, and not before."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.crafted import file, files_tar, layer, saved

from bot_bottle.errors import ImageError, Interrupted
from bot_bottle.host import signals
from bot_bottle.image.growing_archive import Arriving

LAYERS = [layer([file(name, name.encode() * 3000)]) for name in "abc"]


class Writer:
    """Writes an archive as far as it is told to."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._file = path.open("xb", buffering=0)
        self._data = data
        self._at = 0
        self.arriving = Arriving(path)

    def write_to(self, end: int) -> None:
        piece = self._data[self._at : end]
        self._file.write(piece)
        self._at += len(piece)
        self.arriving.advance(len(piece))

    def end(self) -> None:
        self._file.close()
        self.arriving.end()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "image.tar", saved(*LAYERS))
    yield made
    made.end()


def test_a_layer_is_given_when_all_of_it_is_there(writer: Writer) -> None:
    data = saved(*LAYERS)
    found: list[bytes] = []
    given = threading.Semaphore(0)

    def follow() -> None:
        for blob in writer.arriving.layers():
            found.append(blob.pread(blob.size, 0))
            given.release()

    thread = threading.Thread(target=follow)
    thread.start()
    for number, each in enumerate(LAYERS):
        end = data.index(each) + len(each)
        writer.write_to(end - 1)
        assert not given.acquire(timeout=0.1)
        assert len(found) == number
        writer.write_to(end)
        assert given.acquire(timeout=10)
    writer.write_to(len(data))
    thread.join(10)
    assert not thread.is_alive()
    assert found == LAYERS


@pytest.mark.parametrize("step", [1, 100, 511, 10_000])
def test_layers_of_an_archive_written_in_pieces_of_any_size_are_complete(writer: Writer, step: int) -> None:
    found: list[bytes] = []
    thread = threading.Thread(
        target=lambda: found.extend(blob.pread(blob.size, 0) for blob in writer.arriving.layers())
    )
    thread.start()
    size = len(saved(*LAYERS))
    for end in range(0, size + step, step):
        writer.write_to(end)
    thread.join(10)
    assert found == LAYERS


def test_what_is_cut_short_is_told_to_whoever_waits(writer: Writer) -> None:
    data = saved(*LAYERS)
    writer.write_to(data.index(LAYERS[1]) + 1000)
    writer.end()
    found = writer.arriving.layers()
    assert next(found)
    with pytest.raises(ImageError, match="cut short"):
        next(found)


def test_nothing_comes_of_an_archive_that_is_never_begun(tmp_path: Path) -> None:
    arriving = Arriving(tmp_path / "never")
    arriving.end()
    assert list(arriving.layers()) == []


def test_what_is_no_tar_is_no_layer(tmp_path: Path) -> None:
    data = files_tar({"config.json": b"{}" * 1000, "empty": b"", "layer.tar": LAYERS[0], "short": b"x" * 300})
    writer = Writer(tmp_path / "image.tar", data)
    writer.write_to(len(data))
    assert [blob.pread(blob.size, 0) for blob in writer.arriving.layers()] == [LAYERS[0]]
    writer.end()


def test_an_archive_that_is_not_a_tar_is_an_image_error(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "image.tar", b"not a tar" * 200)
    writer.write_to(1800)
    with pytest.raises(ImageError):
        list(writer.arriving.layers())
    writer.end()


def test_a_signal_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Whenever it comes, also while the lock is being taken."""
    dice = random.Random(0)  # noqa: S311
    for _ in range(100):
        arriving = Arriving(tmp_path / "image.tar")
        waiting = threading.Thread(target=arriving.has, args=(1 << 62,), daemon=True)
        waiting.start()
        signals.install()
        signal.signal(signal.SIGVTALRM, signal.getsignal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_VIRTUAL, dice.uniform(0.0001, 0.002))
            while True:
                arriving.advance(1)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        arriving.end()
        waiting.join(30)
        assert not waiting.is_alive()
