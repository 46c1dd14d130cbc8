"""Who may use a Ray cluster that is not on this machine, and what may be sent to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.bottle import Bottle
from tests.support.callers import Caller, caller
from tests.support.certificates import certify
from tests.support.engines import Docker, private_docker
from tests.support.ray_nodes import Nodes, nodes

pytestmark = pytest.mark.slow


@contextmanager
def elsewhere(docker: Docker, cluster: Nodes) -> Iterator[Caller]:
    """Yield somebody on another machine, with all that the cluster wants of callers."""
    with caller(0, docker) as who:
        bottle = Bottle(who.bottle.cache, {**who.bottle.changes, **cluster.auth}, prefix=cluster.prefix)
        yield Caller(who.uid, who.folder, bottle)
        bottle.kill_started()


def fan_argv(image: str, on: str, *more: str) -> list[str]:
    docker = ("--backend", "docker", "--image", image, "--name", "try", "-m", "256m")
    return ["fan", "2", "--on", on, *docker, *more]


def test_with_tls_secrets_may_be_sent(docker: Docker, git_image: str) -> None:
    with (
        private_docker(copy="nodea") as engine,
        nodes({"a": engine.variables}, tls=True) as cluster,
        elsewhere(docker, cluster) as who,
    ):
        repo = who.repo()
        (who.folder / "key").write_text("of-the-caller\n")
        script = 'test "$KEY" = of-the-caller && git commit -q --allow-empty -m "has the key"'
        sent = ("--send-secrets", "--secret", f"id=KEY,src={who.folder}/key", "--json")
        argv = fan_argv(git_image, cluster.address, *sent, "--", "sh", "-c", script)
        ended = who.bottle(*argv, cwd=repo.top)
        assert ended.code == 0, ended
        assert [(row["exit_status"], row["commits"]) for row in json.loads(ended.out)] == [(0, 1)] * 2
        assert repo.git("log", "-1", "--format=%s", "bottle/try-2") == "has the key"
        plain = who.bottle("ls", "--on", cluster.address, env={"RAY_USE_TLS": None})
        plain.failed(99, "uses TLS, and this machine does not", "RAY_USE_TLS=1")
        other = who.folder / "other"
        other.mkdir()
        certify(other, "IP:127.0.0.1")
        unknown = {"RAY_TLS_CA_CERT": str(other / "ca.pem")}
        who.bottle("ls", "--on", cluster.address, env=unknown).failed(99, "cannot connect", "CERTIFICATE")
        assert cluster.leftovers() == []
        who.left_nothing()


def test_without_a_token_a_cluster_elsewhere_is_refused(docker: Docker, git_image: str) -> None:
    with nodes({}, token=False) as cluster, elsewhere(docker, cluster) as who:
        repo = who.repo()
        refusal = ("can be reached from other machines and has no token", "RAY_AUTH_MODE=token")
        argv = fan_argv(git_image, cluster.address, "--", "true")
        who.bottle(*argv, cwd=repo.top).failed(99, *refusal)
        nobody_asks = {"RAY_AUTH_MODE": "token"}
        who.bottle(*argv, cwd=repo.top, env=nobody_asks).failed(99, *refusal)
        who.bottle("ls", "--on", cluster.address, env=nobody_asks).failed(99, *refusal)
        certify(who.folder, "IP:127.0.0.1")
        tls = {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": f"{who.folder}/leaf.pem",
            "RAY_TLS_SERVER_KEY": f"{who.folder}/leaf.key",
            "RAY_TLS_CA_CERT": f"{who.folder}/ca.pem",
        }
        who.bottle("ls", "--on", cluster.address, env=tls).failed(99, "does not use TLS", "unset it here")
        who.left_nothing()
