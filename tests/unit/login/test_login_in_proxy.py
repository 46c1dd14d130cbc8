"""A login in a bottle's proxy: refreshed in the middle of a run, for its vendor's hosts only, in no log."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.support.bottle import wait_until
from tests.support.canary import holders
from tests.support.https_site import Site
from tests.support.proxied import proxied, server
from tests.unit.login.conftest import API, FIRST, OTHER, VARIABLE, User

from bot_bottle.login.values import renewal_of, resolve, with_hosts
from bot_bottle.network.proxy.config import ProxiedSecret, ReadingConfig
from bot_bottle.network.values import served
from bot_bottle.secrets.reference import Reference

PLACEHOLDER = "BOTTLE_PLACEHOLDER_x"


def test_a_run_goes_on_with_a_new_token_and_others_get_the_placeholder(user: User, tmp_path: Path) -> None:
    reference = with_hosts(Reference(VARIABLE, "login", "claude"))
    assert reference.hosts == (API,)
    warnings: list[str] = []
    values = resolve([reference], warnings.append)
    renew = renewal_of(reference, values[VARIABLE], warnings.append)
    assert renew is not None
    (tmp_path / "first").write_text(FIRST)
    bundle, site = tmp_path / "bundle.pem", Site(user.certificate)
    with (
        server(site) as port,
        served({VARIABLE: renew}, values) as channel,
        proxied(
            tmp_path,
            [f"{API}:{port} GET", f"{OTHER}:{port} GET", f"127.0.0.1:{port}"],
            channel=channel,
            authorities=str(user.certificate),
            resolver=user.resolver,
            reading=ReadingConfig(str(tmp_path / "authority"), str(bundle)),
            secrets=[ProxiedSecret(PLACEHOLDER, [API], str(tmp_path / "first"), VARIABLE, changes=True)],
        ) as proxy,
    ):
        wait_until(lambda: bundle.exists(), 30)

        def bearer(host: str, path: str = "") -> str:
            argv = ["curl", "-sS", "--proxy", f"http://127.0.0.1:{proxy.port}", "--cacert", str(bundle)]
            argv += [
                "-H",
                f"Authorization: Bearer {PLACEHOLDER}",
                f"https://{host}:{port}/{path}",
            ]
            subprocess.run(argv, check=True, timeout=60)
            found = re.search(r"(?i)authorization: bearer (\S+)", site.requests[-1][0])
            assert found
            return found[1]

        assert bearer(API) == FIRST
        user.write(-1)
        assert bearer(API) == "canary-e7-access-1"
        assert bearer(OTHER, "canary-e7-access-1") == PLACEHOLDER  # as a server may have shown it
        site.status = 401  # it was revoked, for example by the agent's own `/logout`
        assert bearer(API) == "canary-e7-access-1"
        site.status = 200
        user.tokens.broken = (500, b"")
        assert bearer(API) == "canary-e7-access-1"
        logged = json.dumps(proxy.log(5))
    assert "/***" in logged
    assert "canary" not in logged
    assert holders(b"canary-e7-") == []
    assert len(user.tokens.parameters) == 1
    assert warnings == []
