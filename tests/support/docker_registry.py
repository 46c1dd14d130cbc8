"""Debian's docker-registry on a free port of the loopback, open or with tokens."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.host.wait import wait_until
from tests.support.token_service import ISSUER, SERVICE, TokenService


@contextmanager
def docker_registry(folder: Path, tokens: TokenService | None = None) -> Iterator[int]:
    """Run it with its files in `folder`; yield its port. With `tokens` it wants those of the service."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if tokens is not None:
        token = {"realm": tokens.realm, "service": SERVICE, "issuer": ISSUER}
        settings["auth"] = {"token": {**token, "rootcertbundle": str(tokens.key)}}
    file = folder / "registry.yml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    with (folder / "registry.log").open("wb") as log:
        argv = ["docker-registry", "serve", str(file)]
        server = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        assert wait_until(lambda: server.poll() is None and _answers(port), 30), (
            folder / "registry.log"
        ).read_text()
        yield port
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
