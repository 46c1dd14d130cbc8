"""The proxy as the way out of smolvm's microVM, on an emulated host: one machine with a life of rules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.support import named_world as world
from tests.support.bottle import Bottle
from tests.support.cache import parts
from tests.support.canary import Canary, holders
from tests.support.engines import Docker
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context, copy_with_libraries
from tests.support.killing import kill_proxy
from tests.support.named_world import ALLOWED, REFUSED
from tests.support.world import furnish
from tests.vm.conftest import COMMAND
from tests.vm.test_nested import _path as import_path

from bot_bottle.host.progress import Progress
from bot_bottle.vm.emulated.host import prepare_emulation

# What is tried, and what comes of it a line each. The names of the world's servers: see `named_world`.
SCRIPT = f"""
get() {{ curl -sS -m 40 -o /dev/null -w '%{{http_code}}' "$@" 2>/dev/null; }}
key="Authorization: Bearer $API_KEY"
echo "placeholder $API_KEY"
echo "found $(grep -rls "$1" /proc/[0-9]*/environ /run /tmp | wc -l)"
echo "trusted $(get -H "$key" https://api.example.org/headers)"
echo "port $(get -H "$key" http://api.example.org/headers)"
echo "address $(get --resolve shared.example.net:443:{ALLOWED} -k https://shared.example.net/headers)"
echo "host $(get -H 'Host: shared.example.net' http://b.a.wild.example.org/headers)"
echo "resolved $(get --resolve a.wild.example.org:80:{ALLOWED} http://a.wild.example.org/)"
echo "proxied $(get -x http://192.0.2.203:3128 https://api.example.org/proxied)"
echo "proxied-other $(get -x http://192.0.2.203:3128 http://other.example.org/)"
echo "other $(get http://other.example.org/)"
until [ "$(get http://other.example.org/)" = 200 ]; do sleep 1; done
echo "allowed"
while [ "$(get http://other.example.org/)" = 200 ]; do sleep 1; done
echo "removed $(get https://api.example.org/still)"
while [ "$(get https://api.example.org/still)" = 200 ]; do sleep 1; done
echo "gone"
"""
ALLOW = ("api.example.org:443", "*.wild.example.org:80")


@pytest.fixture(scope="module")
def client(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client")
    context = busybox_context(folder / "context", BOTTLE_DOCKERFILE)
    copy_with_libraries("curl", context / "rootfs")
    docker.docker("save", "--output", str(folder / "image.tar"), docker.build(context))
    return folder / "image.tar"


@pytest.mark.timeout(900)
def test_the_proxy_decides_what_a_microvm_reaches(client: Path, shared_cache: Path, tmp_path: Path) -> None:
    served, log = tmp_path / "served", tmp_path / "world"
    served.mkdir()
    furnish(served)
    prepare_emulation(Progress())  # the bottle has no way to fetch it
    canary = Canary.made(tmp_path / "key")
    canary.path.write_bytes(canary.value + b"\n")  # headers have no line breaks
    state = {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": import_path()}
    bottle = Bottle(shared_cache, {**state, "SSL_CERT_FILE": str(served / "cert.pem")})
    secret = f"id=API_KEY,src={canary.path},host=api.example.org"
    options = ["--accel", "nested", "-m", "512m", "-u", "0", "--name", "lives", "--archive", str(client)]
    command = ["sh", "-c", SCRIPT, "sh", canary.value.decode()[:12]]
    with subprocess.Popen(
        [
            *world.prefix(log, served),
            *COMMAND,
            "run",
            "-q",
            *options,
            *(f"--allow={entry}" for entry in ALLOW),
            "--secret",
            secret,
            "--",
            *command,
        ],
        env=bottle.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout
            lines: dict[str, str] = {}
            for line in child.stdout:
                word, _, rest = line.strip().partition(" ")
                lines[word] = rest
                if word == "other":
                    assert holders(canary.value) == []
                    assert bottle("allow", "lives", "other.example.org:80").code == 0
                elif word == "allowed":
                    assert bottle("allow", "--remove", "lives", "other.example.org:80").code == 0
                elif word == "removed":
                    kill_proxy(bottle)
            words = child.communicate(timeout=100)[1]
        finally:
            child.terminate()
    assert lines.pop("placeholder").startswith("BOTTLE_PLACEHOLDER_"), (lines, words)
    nothing = "000"
    assert lines == {
        "found": "0",
        "trusted": "200",
        "port": nothing,
        "address": nothing,
        "host": nothing,
        "resolved": "200",
        "proxied": "200",
        "proxied-other": "403",
        "other": nothing,
        "allowed": "",
        "removed": "200",
        "gone": "",
    }, words
    assert "the bottle's proxy has exited: nothing can be reached any more" in words
    assert child.returncode == 119
    [with_value] = [each for each in world.seen(log) if canary.value.decode() in str(each)]
    assert with_value[1:3] == [ALLOWED, 443]
    reached = {(address, port) for kind, address, port, *_ in of_servers(log) if kind == "tcp"}
    assert reached == {(ALLOWED, 443), (REFUSED, 80), (world.WILD, 80)}
    told = json.loads(bottle("logs", "--egress", "--all", "--json", "lives").out.splitlines()[0])
    assert told["host"] == "api.example.org"
    assert canary.places(tmp_path / "state", *parts(shared_cache)) == []
    assert bottle.leftovers == []


def of_servers(log: Path) -> list[list[object]]:
    return [each for each in world.seen(log) if len(each) == 4]
