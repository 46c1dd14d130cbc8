"""What a converter returns of each conversion: its own, and nothing of the one before."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from bot_bottle.bottle.gc import run_context
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.pack.converter import Converter


def saved(path: Path, *fifos: str) -> Path:
    """Write an image as docker saves it, with a file and some FIFOs, which no microVM gets."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("file"))
        for name in fifos:
            member = tarfile.TarInfo(name)
            member.type = tarfile.FIFOTYPE
            tar.addfile(member)
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}}
    config["rootfs"] = {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"],
    }
    manifest = [{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["layer.tar"]}]
    files = {"config.json": json.dumps(config).encode(), "layer.tar": layer.getvalue()}
    with tarfile.open(path, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_each_conversion_reports_its_own_losses_and_stages(tmp_path: Path) -> None:
    with_pipe = Source(archive=saved(tmp_path / "pipe.tar", "pipe"))
    plain = Source(archive=saved(tmp_path / "plain.tar"))
    with run_context() as run:
        converter = Converter(run, Progress())
        first, again, other, last = map(converter.convert, (with_pipe, with_pipe, plain, with_pipe))
    assert [len(each.losses) for each in (first, again, other, last)] == [1, 0, 0, 0]
    assert [each.entry.hit for each in (first, again, other, last)] == [False, True, False, True]
    assert first.entry.path == again.entry.path == last.entry.path != other.entry.path
    assert "pack" in first.seconds
    assert "pack" in other.seconds
    assert "pack" not in {**again.seconds, **last.seconds}
