"""Limits of a run in a container: its time, and its requests and tokens at a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot_bottle.backend.base import OnProved, RunningBottle
from bot_bottle.bottle import records
from bot_bottle.bottle.run import run_bottle
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.engine.source import Source
from bot_bottle.host.progress import Progress
from bot_bottle.network.audit_log import Log, Request
from bot_bottle.network.policy import parse_policy
from bot_bottle.network.probes import Proof
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.secrets.reference import parse
from tests.support.agents import KEY
from tests.support.bottle import Bottle
from tests.support.engines import Docker
from tests.support.escapes import client_context
from tests.support.repos import Repo, make_repo
from tests.support.world import World

API = "api.anthropic.com"
COMMIT = "git -c user.name=t -c user.email=t@example.org commit -qm"

# asks the model until that refuses, as an agent does, and ends with what the model said last
AGENT = f"""
echo more >> README; {COMMIT} work README
while said=$(curl -sSf -H "x-api-key: $KEY" -d '{{"messages": []}}' https://{API}/v1/messages); do :; done
curl -sS -H "x-api-key: $KEY" -d '{{}}' https://{API}/v1/messages
exit 3
"""


@pytest.fixture(scope="module")
def client(docker: Docker, outside: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with curl and git."""
    return docker.build(client_context(tmp_path_factory.mktemp("client"), outside.folder / "cert.pem"))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = make_repo(tmp_path / "repo")
    made.commit({"README": "readme\n"})
    return made


@pytest.fixture
def there(bottle: Bottle, outside: World) -> Iterator[Bottle]:
    """Run `bottle` in that world."""
    outside.forget()
    trusted = {"SSL_CERT_FILE": str(outside.folder / "cert.pem"), "SSL_CERT_DIR": None, "MY_KEY": KEY}
    yield replace(bottle, prefix=outside.prefix, changes={**bottle.changes, **trusted})
    assert not bottle.leftovers


def test_a_command_that_takes_too_long_is_ended_and_its_work_comes_back(
    there: Bottle, client: str, repo: Repo
) -> None:
    given = ("--backend=docker", "-u0", "--image", client)
    script = f"echo more >> README; {COMMIT} work README; git branch --show-current | grep a-1 || sleep 600"
    fanned = there("fan", "2", "--name=a", "--timeout=4s", *given, "--", "sh", "-c", script, cwd=repo.top)
    assert fanned.code == 1, fanned
    rows = [line.split("  ") for line in fanned.out.splitlines()[1:]]
    assert [[cell.strip() for cell in row if cell][:3] for row in rows] == [
        ["a-1", "0", "1"],
        ["a-2", "timed out", "1"],
    ], fanned.out
    assert "more" in repo.git("show", "bottle/a-2:README")
    shown = json.loads(there("show", "--json", "a-2").out)
    assert (shown["exit_status"], shown["limit"]) == (124, "timeout")
    (repo.top / "bottle.toml").write_text('[limits]\ntimeout = "1s"\n')
    there("run", "-q", *given, "--", "sleep", "600", cwd=repo.top).failed(124, "ran for longer than 1s")


def test_a_budget_ends_each_bottle_of_a_fan_and_is_in_its_receipt(
    there: Bottle, client: str, repo: Repo, outside: World
) -> None:
    given = ["--backend=docker", "-u0", "--image", client, "--max-tokens=200"]
    there("run", *given, "--", "true", cwd=repo.top).failed(101, "a limit of tokens", "has no network")
    given += [f"--allow={API}", f"--secret=id=KEY,env=MY_KEY,host={API}"]
    fanned = there("fan", "2", "--name=a", *given, "--", "sh", "-c", AGENT, cwd=repo.top)
    assert fanned.code == 1, fanned
    assert fanned.out.splitlines()[0].split()[-2:] == ["REQUESTS", "TOKENS"]
    for row in fanned.out.splitlines()[1:]:
        assert [row.split()[at] for at in (1, 2, -2, -1)] == ["3", "1", "2", "240*"], fanned.out
    logged = there("logs", "a-1").out
    assert '"status": "FAILED_PRECONDITION"' in logged
    assert "warning: the bottle's budget of tokens is used up: further requests were refused" in logged
    shown = json.loads(there("inspect", "--json", "a-2").out)
    assert shown["limit"] == "tokens"
    assert (shown["usage"]["requests"], shown["usage"]["refused"]) == (2, "tokens")
    assert shown["plan"]["limits"] == {"timeout": None, "requests": None, "tokens": 200}
    assert len([each for each in outside.seen() if "method" in each]) == 4
    one = there("run", *given, "--max-requests=1", "--", "sh", "-c", AGENT, cwd=repo.top)
    assert one.code == 3, one
    assert "\nusage    1 request, 100 input and 20 output tokens\n" in one.err


def test_a_host_of_a_credential_that_cannot_be_reached_is_named(
    there: Bottle, client: str, repo: Repo
) -> None:
    host = "closed.example.org"
    given = ["--backend=docker", "-u0", "--image", client, f"--allow={host}"]
    given.append(f"--secret=id=KEY,env=MY_KEY,host={host}")
    done = there("run", *given, "--", "curl", "-sS", f"https://{host}", cwd=repo.top)
    assert done.code != 0
    assert "warning: closed.example.org:443 cannot be reached from this machine: " in done.err, done


@pytest.mark.parametrize("proved", [True, False])
def test_a_host_that_the_probes_alone_asked_for_is_not_named(
    docker: Docker,
    image: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    proved: bool,
) -> None:
    for variable, value in {**docker.variables, "MY_KEY": KEY}.items():
        monkeypatch.setenv(variable, value)
    reference = parse(["id=KEY,env=MY_KEY,host=api.example.org"])["KEY"]

    def command(_: RunningBottle, on_proved: OnProved) -> int:
        with Log(records.newest("blue").log) as log:
            log.write(Request("api.example.org", 443, "failed", "no route"))
        if proved:
            on_proved(Proof({}))
        return 3

    allowed = parse_policy(["api.example.org"])
    spec = BottleSpec(
        Source(image=image), "blue", ("true",), backend="docker", egress=allowed, secrets=(reference,)
    )
    assert run_bottle(spec, ConvertOptions(engine="docker"), Progress(), run_command=command) == 3
    assert ("api.example.org:443 cannot be reached" in capsys.readouterr().err) == proved
