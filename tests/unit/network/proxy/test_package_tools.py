"""pip and npm themselves, in a bottle's place: the second one gets its packages from the cache."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.dns_server import dns_server
from tests.support.package_registry import HOST, package_registry, tool_argv, tool_env
from tests.support.proxied import proxied

from bot_bottle.network.proxy.config import ReadingConfig

COUNT = 5


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["pip", "npm"])
def test_a_tool_installs_from_the_cache_what_another_run_has_downloaded(
    tmp_path: Path, certificate: Path, tool: str
) -> None:
    bundle = tmp_path / "bundle.pem"
    with (
        package_registry(certificate, COUNT, 100_000) as registry,
        dns_server({HOST: ["127.0.0.1"]}) as names,
    ):
        for number in range(2):
            folder = tmp_path / str(number)  # of one bottle, which has its own proxy and authority
            folder.mkdir()
            with proxied(
                folder,
                [f"{HOST}:{registry.port}", f"127.0.0.1:{registry.port}"],
                caches=registry.caches,
                authorities=str(certificate),
                resolver=names.address,
                reading=ReadingConfig(str(folder / "authority"), str(bundle)),
                packages=str(tmp_path / "packages"),
            ) as proxy:
                wait_until(lambda: bundle.exists(), 30)
                env = tool_env(proxy.port, bundle, folder)
                argv = tool_argv(tool, registry, folder / "installed", None)
                done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
                assert done.returncode == 0, done
                entries = [each for each in proxy.log() if each.get("cached")]
            assert len(entries) == (COUNT if number else 0)
            assert len(registry.downloads) == COUNT
            bundle.unlink()
        first, second = (
            {path.name: path.read_bytes() for path in tmp_path.glob(f"{number}/installed/**/*.dat")}
            | {path.parent.name: path.read_bytes() for path in tmp_path.glob(f"{number}/installed/**/data")}
            for number in range(2)
        )
    assert first == second
    assert len(first) == COUNT
