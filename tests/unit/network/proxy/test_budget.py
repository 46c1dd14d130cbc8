"""A budget of requests and tokens at the hosts of a bottle's credentials, in the real proxy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.bottle import wait_until
from tests.support.dns_server import dns_server
from tests.support.https_site import Site
from tests.support.proxied import Proxied, proxied, server

from bot_bottle.network.proxy.config import ProxiedSecret, ReadingConfig
from bot_bottle.network.usage import Budget, load_usage

HOST = "api.example.org"
MESSAGE = json.dumps({"type": "message", "usage": {"input_tokens": 70, "output_tokens": 5}}).encode()


class Model(Site):
    """A model that reports tokens, but not at `/silent`."""

    kind = "application/json"

    def answer(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        return self.status, b"x" * 4000 if b"/silent/" in head.split(b"\r\n")[0] else MESSAGE


@dataclass
class Budgeted:
    proxy: Proxied
    model: Model
    port: int
    folder: Path

    def send(self, path: str = "/v1/messages", *options: str, data: str = "{}") -> tuple[int, str]:
        """Send a request with curl in the bottle's place; return the status and the body."""
        argv = ["curl", "-sS", "--proxy", f"http://127.0.0.1:{self.proxy.port}", "-w", "\n%{http_code}"]
        argv += ["--cacert", str(self.folder / "bundle.pem"), "--data-binary", "@-", *options]
        argv += [f"https://{HOST}:{self.port}{path}"]
        done = subprocess.run(argv, input=data, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == "", done
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def used(self) -> dict[str, Any]:
        found = load_usage(self.folder / "usage")
        assert found is not None
        return found


@contextmanager
def budgeted(folder: Path, certificate: Path, budget: Budget) -> Iterator[Budgeted]:
    """Run a proxy with a credential for a model, and a budget."""
    (folder / "secret").write_text("a-canary-value")
    model, bundle = Model(certificate), folder / "bundle.pem"
    with (
        server(model) as port,
        dns_server({HOST: ["127.0.0.1"]}) as names,
        proxied(
            folder,
            [f"{HOST}:{port} GET,POST /*", f"127.0.0.1:{port}"],
            authorities=str(certificate),
            resolver=names.address,
            reading=ReadingConfig(str(folder / "authority"), str(bundle)),
            secrets=[ProxiedSecret("PLACEHOLDER", [HOST], str(folder / "secret"))],
            usage=str(folder / "usage"),
            budget=budget,
        ) as proxy,
    ):
        wait_until(bundle.exists, 30)
        yield Budgeted(proxy, model, port, folder)


def test_a_request_past_the_most_is_refused_as_a_final_error(tmp_path: Path, certificate: Path) -> None:
    with budgeted(tmp_path, certificate, Budget(requests=2)) as made:
        assert made.send("/v1/models", "-X", "GET", data="")[0] == 200
        assert made.send("/v1/socket", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket")[0] == 426
        assert made.send()[0] == 200
        assert "accept-encoding: identity" in made.model.requests[-1][0].lower()
        for data in ("{}", "x" * 3_000_000):  # which is read to its end before the answer
            status, body = made.send(data=data)
            error = json.loads(body)
            assert (status, error["type"], error["error"]["type"]) == (400, "error", "invalid_request_error")
            assert (error["error"]["code"], error["error"]["status"]) == (400, "FAILED_PRECONDITION")
            assert "the budget of 2 requests is used up" in error["error"]["message"]
        assert len(made.model.requests) == 2
        logged = [each for each in made.proxy.log(5) if each["verdict"] == "refused"]
        assert ["budget" in each["reason"] for each in logged] == [True, True, True]
    expected = {
        "requests": 2,
        "input_tokens": 140,
        "output_tokens": 10,
        "estimated": 0,
        "refused": "requests",
    }
    assert made.used() == expected


def test_tokens_are_counted_reported_or_estimated(tmp_path: Path, certificate: Path) -> None:
    with budgeted(tmp_path, certificate, Budget(tokens=1100)) as made:
        assert made.send()[0] == 200
        made.model.status = 529
        assert made.send()[0] == 529  # costs nothing
        made.model.status = 200
        assert made.send("/v1/messages/batches")[0] == 400  # whose tokens are in no answer
        assert made.send("/silent/v1/chat/c%6fmpletions", data="x" * 101)[0] == 200
        wait_until(lambda: made.used()["estimated"] == 1, 10)
        assert made.used()["refused"] == ""
        assert made.send()[0] == 400
    counts = {"requests": 3, "input_tokens": 70 + 26, "output_tokens": 5 + 1000}
    assert made.used() == {**counts, "estimated": 1, "refused": "tokens"}
