"""The package cache of the proxy, beside a folder of the tool's own, and beside neither.

pip and npm install packages of a registry on this machine's loopback, through a proxy as a bottle has it. So
no time of a network is in it: what is saved of that comes on top.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.bottle import wait_until
from tests.support.dns_server import dns_server
from tests.support.https_site import make_certificate
from tests.support.package_registry import HOST, PackageRegistry, package_registry, tool_argv, tool_env
from tests.support.proxied import proxied

from benchmarks.measure import Claim, rounds
from bot_bottle.network.caches import PackageFiles
from bot_bottle.network.proxy.config import ReadingConfig

COUNT, SIZE = 30, 1_000_000  # packages, and bytes of each
TOOLS = ("pip", "npm")


@dataclass(frozen=True)
class _Way:
    """A proxy at `port`, and the file of authorities that tools trust with it."""

    port: int
    authorities: Path
    process: subprocess.Popen[bytes]


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure installing with each, everything downloaded before."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        certificate = make_certificate(folder / "both.pem", HOST)
        with (
            package_registry(certificate, COUNT, SIZE) as registry,
            dns_server({HOST: ["127.0.0.1"]}) as names,
            _proxy(folder / "plain", certificate, registry, names.address, ()) as plain,
            _proxy(folder / "cached", certificate, registry, names.address, registry.caches) as cached,
        ):
            return [claim for tool in TOOLS for claim in _tool(tool, folder, registry, plain, cached, count)]


@contextmanager
def _proxy(
    folder: Path,
    certificate: Path,
    registry: PackageRegistry,
    resolver: tuple[str, int],
    caches: Sequence[PackageFiles],
) -> Iterator[_Way]:
    """Run a proxy: with caches it decrypts what is sent to the registry, without it passes it on unread."""
    folder.mkdir()
    bundle = folder / "bundle.pem"
    with proxied(
        folder,
        [f"{HOST}:{registry.port}", f"127.0.0.1:{registry.port}"],
        caches=caches,
        authorities=str(certificate),
        resolver=resolver,
        reading=ReadingConfig(str(folder / "authority"), str(bundle)) if caches else None,
        packages=str(folder / "packages") if caches else None,
    ) as made:
        wait_until(lambda: bundle.exists() or not caches, 30)
        yield _Way(made.port, bundle if caches else certificate, made.process)


def _tool(
    tool: str, folder: Path, registry: PackageRegistry, plain: _Way, cached: _Way, count: int
) -> list[Claim]:
    own, target = folder / f"{tool}-own", folder / "installed"
    used: dict[str, list[float]] = {"none": [], "own": [], "proxy": []}

    def go(name: str, way: _Way, cache: Path | None) -> float:
        env = tool_env(way.port, way.authorities, folder)
        begun, before = time.perf_counter(), _processor(way.process)
        subprocess.run(
            tool_argv(tool, registry, target, cache), env=env, check=True, capture_output=True, timeout=300
        )
        took = time.perf_counter() - begun
        used[name].append(_processor(way.process) - before)
        for each in (target, target.with_name(f"{target.name}-npm")):
            shutil.rmtree(each, ignore_errors=True)
        return took

    go("own", plain, own)
    go("proxy", cached, None)
    asked = len(registry.downloads)
    used = {name: [] for name in used}
    found = rounds(
        count,
        none=lambda: go("none", plain, None),
        own=lambda: go("own", plain, own),
        proxy=lambda: go("proxy", cached, None),
    )
    assert len(registry.downloads) - asked == COUNT * count  # without any cache, and by no other
    cpu = {name: tuple(figures) for name, figures in used.items()}
    what = f"{tool}: {COUNT} packages"
    return [
        Claim(f"{what}, cache in the proxy", "s", found["proxy"], found["none"], "no cache"),
        Claim(f"{what}, cache in the proxy", "s", found["proxy"], found["own"], "the tool's own folder"),
        Claim(f"{what}, processor", "s", cpu["proxy"], cpu["none"], "no cache"),
        Claim(f"{what}, processor", "s", cpu["proxy"], cpu["own"], "the tool's own folder"),
    ]


def _processor(proxy: subprocess.Popen[bytes]) -> float:
    """Return the processor time of all programs that have ended, and of a proxy."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = Path(f"/proc/{proxy.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # proc(5), utime and stime
    return ended.ru_utime + ended.ru_stime + ticks / 100
