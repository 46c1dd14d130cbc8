"""Ports of this machine that a container may reach, by name; and that nothing else of its loopback is."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bottle import Bottle, wait_until
from tests.support.engines import Docker, Podman
from tests.support.host_service import Answer, service
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context

ALONE = ("run", "-q", "--backend=docker", "--name=ported")


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    return docker.build(busybox_context(tmp_path_factory.mktemp("ports"), BOTTLE_DOCKERFILE))


@pytest.fixture(autouse=True)
def nothing_left(bottle: Bottle) -> Iterator[None]:
    yield
    assert not bottle.leftovers


def script(port: int, other: int) -> str:
    name = f"host.bottle:{port}"
    return f"""
    echo direct | nc host.bottle {port} | tail -n1
    wget -qO- http://host.bottle:{port}/proxied
    echo by-number | nc 127.0.0.1 {port} | tail -n1
    printf 'CONNECT {name} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\ntunnelled\\n' | nc 127.0.0.1 3128 | tail -n1
    echo other | nc -w 3 host.bottle {other} || echo closed
    wget -O- http://host.bottle:{other}/ || echo closed
    wget -O- http://127.0.0.1:{other}/ || echo closed
    wget -O- http://other.bottle:{port}/ || echo closed
    wget -O- http://x.host.bottle:{port}/ || echo closed
    """


EXPECTED = [
    "heard direct",
    "heard GET /proxied HTTP/1.1",
    "heard by-number",
    "heard tunnelled",
    *["closed"] * 5,
]


@pytest.mark.parametrize(
    "allowed",
    [pytest.param((), marks=pytest.mark.slow), ("--allow=api.example.org",)],
    ids=["alone", "with egress"],
)
def test_an_allowed_port_of_this_machine_answers_by_name_and_no_other(
    bottle: Bottle, image: str, allowed: tuple[str, ...]
) -> None:
    with service() as port, service() as other:
        options = (*allowed, f"--allow-host-port={port}", "--image", image)
        done = bottle(*ALONE, *options, "--", "sh", "-c", script(port, other), timeout=120)
        assert done.out.splitlines() == EXPECTED, done
    receipt = json.loads(bottle("show", "--json", "ported").out)
    assert receipt["plan"]["egress"]["host_ports"] == [port]
    assert receipt["proof"][f"host-port-{port}"] == {"outcome": "open", "ok": True}
    assert receipt["proof"]["host-canary"] == {"outcome": "refused", "ok": True}
    assert receipt["proof"]["host-service"] == {"outcome": "refused", "ok": True}


def test_podman_leads_to_a_port_of_this_machine_as_docker_does(
    podman_bottle: Bottle, podman: Podman, tmp_path: Path
) -> None:
    context = busybox_context(tmp_path / "context", BOTTLE_DOCKERFILE)
    with service() as port, service() as other:
        argv = (*ALONE, "--engine=podman", f"--allow-host-port={port}", str(context))
        done = podman_bottle(*argv, "--", "sh", "-c", script(port, other), timeout=240)
    assert done.out.splitlines() == EXPECTED, done
    assert podman.podman("ps", "--all", "--quiet", "--filter=label=bot-bottle.bottle=ported") == b""


def test_a_port_without_a_service_ends_a_connection_and_serves_when_there_is_one(
    bottle: Bottle, image: str
) -> None:
    with service() as port:
        pass  # it was in use a moment ago, and is not now
    options = ("-d", f"--allow-host-port={port}", "--image", image)
    command = f"until wget -qO- http://host.bottle:{port}/late; do echo nothing; sleep 0.2; done"
    assert bottle(*ALONE, *options, "--", "sh", "-c", command).code == 0
    wait_until(lambda: "nothing" in bottle("logs", "ported").out)
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert bottle("logs", "-f", "ported").out.endswith("heard GET /late HTTP/1.1\n")
        proved = json.loads(bottle("show", "--json", "ported").out)["proof"]
        server.shutdown()
        thread.join()
    assert all(each["ok"] for each in proved.values())
    bottle("rm", "ported")


@pytest.mark.slow
def test_a_port_below_1024_is_allowed_too(bottle: Bottle, image: str) -> None:
    with service() as other:
        argv = (*ALONE, "--allow-host-port=81", f"--allow-host-port={other}", "--image", image)
        done = bottle(*argv, "--", "sh", "-c", "nc -w 3 host.bottle 81 </dev/null")
    assert done.code == 0, done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--allow-host-port=3128",), "own proxy"),
        (("--allow-host-port=80", "--network=open"), "exclude each other"),
        (("--allow-host-port=80", "--network=none"), "exclude each other"),
        (("--allow-host-port=80", "-p", "8080:80"), "port 80 is published"),
    ],
)
def test_a_port_that_cannot_be_allowed_is_refused(
    bottle: Bottle, image: str, options: tuple[str, ...], message: str
) -> None:
    done = bottle(*ALONE, *options, "--image", image, "--", "true")
    assert done.code in (2, 101)
    assert message in done.err
