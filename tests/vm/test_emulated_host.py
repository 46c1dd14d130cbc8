"""The emulated host when its kernel does not come up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle.bottle.gc import run_context
from bot_bottle.errors import BootError
from bot_bottle.host.progress import Progress
from bot_bottle.vm.emulated.host import emulated_host, prepare_emulation


@pytest.mark.timeout(300)
def test_a_kernel_that_panics_is_reported_with_its_console(
    shared_cache: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = prepare_emulation(Progress("plain"))
    broken = tmp_path / "cache"
    folder = broken / files[0].parent.relative_to(shared_cache)
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file)
    (broken / "smolvm").symlink_to(shared_cache / "smolvm")
    (folder / files[1].name).unlink()
    (folder / files[1].name).write_bytes(b"")  # no first file system: the kernel finds no root
    monkeypatch.setenv("BOT_BOTTLE_CACHE_DIR", str(broken))
    with (
        run_context() as run,
        pytest.raises(BootError) as caught,
        emulated_host(run, Progress("plain"), memory_mib=256),
    ):
        pass
    error = caught.value
    assert error.message.startswith("the kernel of the emulated host panicked: VFS: Unable to mount root fs")
    assert "not ready within" not in error.why
    assert "Call Trace" in error.why
    assert str(folder) in error.next_step
