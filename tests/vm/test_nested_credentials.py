"""A secret with hosts, put in by smolvm: the bottle has a placeholder, its hosts the value, nobody else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.support.api import ADDRESS, NAMES, Api, api
from tests.support.canary import Canary, holders
from tests.support.engines import Docker
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context, copy_with_libraries
from tests.vm.conftest import run_attached

from bot_bottle.bottle import run as pipeline
from bot_bottle.bottle.gc import run_context
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.network.policy import parse_policy
from bot_bottle.pack.converter import Converter
from bot_bottle.secrets.reference import Reference
from bot_bottle.vm.emulated.host import EmulatedHost

SCRIPT = """
echo "$API_KEY"; grep -rs "$1" /proc/[0-9]*/environ /run /tmp
for url in https://api.example.org/ https://other.example.org/ http://api.example.org:443/; do
  curl -ksS -m 30 -H "Authorization: Bearer $API_KEY" "$url" > /dev/null
done
curl -sS -m 30 https://api.example.org/trusted
"""


@pytest.fixture(scope="module")
def client(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    context = busybox_context(tmp_path_factory.mktemp("client"), BOTTLE_DOCKERFILE)
    copy_with_libraries("curl", context / "rootfs")
    return docker.build(context)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """An API whose names and whose authority the machine that smolvm runs on knows."""
    start = EmulatedHost.start

    def prepared(self: EmulatedHost, machine: str, *, timeout: float, env: Mapping[str, str]) -> None:
        trust = "/etc/ssl/certs/ca-certificates.crt"
        script = (
            f"echo nameserver {ADDRESS} > /etc/resolv.conf; mkdir -p /etc/ssl/certs; cat > {trust} <<'END'\n"
        )
        script += f"{made.authority.read_text()}END\n"
        assert self._control.wait(self._control.send("quiet", script), 30) == 0
        start(self, machine, timeout=timeout, env={**env, "SSL_CERT_FILE": trust})

    monkeypatch.setattr(EmulatedHost, "start", prepared)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    with api(folder) as made:
        yield made


def test_its_hosts_get_the_value_and_the_bottle_a_placeholder(
    client: str, shared_cache: Path, tmp_path: Path, world: Api
) -> None:
    canary = Canary.made(tmp_path / "key")
    canary.path.write_bytes(canary.value + b"\n")  # headers have no line breaks
    spec = BottleSpec(
        Source(image=client),
        "credential",
        command=("sh", "-c", SCRIPT, "sh", canary.value.decode()[:12]),
        memory_mib=1024,
        secrets=(Reference("API_KEY", "file", str(canary.path), NAMES[:1]),),
        egress=parse_policy(NAMES),
        accel="nested",
    )
    progress = Progress("plain")
    with run_context() as run:
        converter = Converter(run, progress)
        plan = pipeline.prepare(spec, converter)
        with pipeline.launch(plan, converter, run, progress) as bottle:
            done = run_attached(bottle)
            assert holders(canary.value) == []
    placeholder, *rest = done.out.split()
    assert placeholder.startswith(b"SMOL_PLACEHOLDER_API_KEY_"), done
    assert rest == [b"hi"], done  # nothing was found inside, and the authority is trusted there
    sent = {request.split()[1]: request for request in world.seen if request}
    with_value = [request for request in world.seen if canary.value in request]
    assert [b"host: api.example.org" in request.lower() for request in with_value] == [True], world.seen
    assert [request for request in world.seen if b"other.example.org" in request and placeholder in request]
    assert sent[b"/trusted"]
    assert canary.places(tmp_path, shared_cache) == []
