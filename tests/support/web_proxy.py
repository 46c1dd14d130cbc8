"""A proxy for HTTP without TLS, by which builds without a network of their own reach the packages of apt."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.engines import Docker
from tests.support.serving import running


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            answer = opener.open(self.path, timeout=120)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.send_response(answer.status)
            for name in ("Content-Length", "Content-Type", "Last-Modified"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            shutil.copyfileobj(answer, self.wfile)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy_for_builds(docker: Docker, folder: Path) -> Iterator[dict[str, str]]:
    """Run it on the engine's bridge; yield what makes the docker client name it to builds.

    The settings of the client are in `folder`.
    """
    gateway = docker.docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    server = ThreadingHTTPServer((gateway.decode().strip(), 0), _Handler)
    server.daemon_threads = True
    address = "http://{}:{}".format(*server.server_address)
    own = Path(docker.env.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "config.json"
    settings = json.loads(own.read_text()) if own.exists() else {}
    folder.mkdir()
    proxies = {"default": {"httpProxy": address}}
    (folder / "config.json").write_text(json.dumps({**settings, "proxies": proxies}))
    with running(server):
        yield {"DOCKER_CONFIG": str(folder)}
