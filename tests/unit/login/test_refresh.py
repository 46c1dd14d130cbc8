"""Access tokens that end are refreshed once, by whichever process is first, and a failure is said once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.unit.login.conftest import API, FIRST, VARIABLE, User

from bot_bottle.errors import SecretError
from bot_bottle.host.redact import Renew, Secret, redacted
from bot_bottle.login.values import renewal_of, resolve
from bot_bottle.secrets.reference import Reference

REFERENCE = Reference(VARIABLE, "login", "claude", (API,))
PROGRAM = f"""\
from bot_bottle.login.values import resolve
from bot_bottle.secrets.reference import Reference
print(resolve([Reference("{VARIABLE}", "login", "claude")], print)["{VARIABLE}"].reveal())
"""


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def renew(user: User, warnings: list[str]) -> Renew:
    """What a bottle has that began an hour before its token ends."""
    values = resolve([REFERENCE], warnings.append)
    assert values[VARIABLE].reveal() == FIRST
    made = renewal_of(REFERENCE, values[VARIABLE], warnings.append)
    assert made is not None
    return made


def value(renew: Renew, *, refused: bool = False) -> str:
    return renew(refused).reveal()


def test_a_token_that_is_valid_is_used_as_it_is(user: User, renew: Renew) -> None:
    assert value(renew) == FIRST
    assert user.tokens.parameters == []


def test_one_that_ends_is_refreshed_and_the_agents_file_has_the_new_ones(user: User, renew: Renew) -> None:
    user.write(299)
    assert value(renew) == "canary-e7-access-1"
    assert value(renew) == "canary-e7-access-1"
    sent = user.tokens.parameters
    assert [each["refresh_token"] for each in sent] == ["canary-e7-refresh-0"]
    assert sent[0]["client_id"] == "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
    login = user.login["claudeAiOauth"]
    assert (login["accessToken"], login["refreshToken"]) == ("canary-e7-access-1", "canary-e7-refresh-1")
    assert login["subscriptionType"] == "max"
    assert user.login["mcpOAuth"] == {"x": 1}
    assert user.file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in user.file.parent.iterdir()) == [".credentials.json"]
    assert redacted("canary-e7-refresh-1 canary-e7-access-1") == "*** ***"


def test_two_processes_refresh_at_the_same_moment_with_one_request(user: User) -> None:
    user.write(-1)
    programs: list[subprocess.Popen[str]] = []

    def both_are_there() -> None:
        """Let the server wait until the other process waits for the lock."""
        wait_until(lambda: len(programs) == 2, 20)
        pids = {str(each.pid) for each in programs}
        wait_until(lambda: pids & waiting(), 20)

    user.tokens.before = both_are_there
    for _ in range(2):
        programs.append(subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True))
    assert [each.communicate(timeout=60)[0] for each in programs] == ["canary-e7-access-1\n"] * 2
    assert len(user.tokens.parameters) == 1


def waiting() -> set[str]:
    """Return the processes that wait for a lock (proc(5), /proc/locks)."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {line[5] for line in lines if line[1] == "->"}


def test_the_agents_own_refresh_is_waited_for(user: User, renew: Renew) -> None:
    user.write(-1)
    lock = user.file.parent / ".oauth_refresh.lock"
    lock.mkdir()
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    own = user.home.parent / "state" / "logins" / "claude.lock"
    wait_until(lambda: str(program.pid) in holding(own), 20)
    user.write(3600, "canary-e7-of-the-agent")
    lock.rmdir()
    assert program.communicate(timeout=60)[0] == "canary-e7-of-the-agent\n"
    assert user.tokens.parameters == []


def holding(path: Path) -> set[str]:
    """Return the processes that have a lock on a file."""
    if not path.exists():
        return set()
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {line[4] for line in lines if line[1] == "FLOCK" and line[5].endswith(f":{path.stat().st_ino}")}


def test_an_abandoned_lock_of_the_agent_is_removed(user: User, renew: Renew) -> None:
    user.write(-1)
    lock = user.file.parent / ".oauth_refresh.lock"
    lock.mkdir()
    os.utime(lock, (1, 1))
    assert value(renew) == "canary-e7-access-1"
    assert not lock.exists()


def test_a_server_that_fails_is_said_once_and_the_token_is_used_while_it_lasts(
    user: User, renew: Renew, warnings: list[str]
) -> None:
    user.write(200)
    user.tokens.broken = (503, b"later")
    assert [value(renew) for _ in range(3)] == [FIRST] * 3
    assert len(user.tokens.parameters) == 1
    assert len(warnings) == 1
    assert (
        "the login of claude could not be refreshed: platform.claude.com answered with status 503"
        in warnings[0]
    )


def test_a_login_that_has_ended_is_said_once_and_not_asked_for_again(
    user: User, renew: Renew, warnings: list[str]
) -> None:
    user.write(-1, refresh="canary-e7-of-another-machine")
    assert [value(renew) for _ in range(3)] == [FIRST] * 3
    assert len(user.tokens.parameters) == 1
    assert len(warnings) == 1
    assert (
        "the login of claude has ended: platform.claude.com refused to refresh it (400, invalid_grant)"
        in warnings[0]
    )
    assert "canary" not in warnings[0]
    user.write(3600, "canary-e7-new")  # the user has logged in again
    assert value(renew) == "canary-e7-new"
    assert len(warnings) == 1


def test_a_login_that_has_ended_before_the_start_is_an_error(user: User, warnings: list[str]) -> None:
    user.write(-1, refresh="canary-e7-of-another-machine")
    with pytest.raises(SecretError, match="has ended") as caught:
        resolve([REFERENCE], warnings.append)
    assert "log in with claude on this machine again" in caught.value.next_step
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"access_token": ""}',
        b'{"access_token": "a\\nb"}',
        b"[" * 100_000,
        b"x" * (2 << 20),
    ],
    ids=["empty", "list", "no-token", "empty-token", "line-break", "deep", "large"],
)
def test_an_answer_without_a_token_changes_nothing(
    user: User, renew: Renew, warnings: list[str], answer: bytes
) -> None:
    user.write(200)
    before = user.file.read_bytes()
    user.tokens.broken = (200, answer)
    assert value(renew) == FIRST
    assert user.file.read_bytes() == before
    assert "could not be refreshed" in warnings[0]


def test_a_refused_token_is_refreshed_once(user: User, renew: Renew) -> None:
    assert value(renew, refused=True) == "canary-e7-access-1"
    assert value(renew, refused=True) == "canary-e7-access-1"  # what asks again and again gets no more tokens
    assert len(user.tokens.parameters) == 1


def test_a_server_without_a_certificate_of_its_name_gets_no_token(
    user: User, renew: Renew, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    user.write(200)
    assert value(renew) == FIRST
    assert user.tokens.parameters == []
    assert "certificate verify failed" in warnings[0]


def test_a_file_that_is_gone_leaves_the_last_token(user: User, renew: Renew, warnings: list[str]) -> None:
    user.file.unlink()
    assert [value(renew) for _ in range(2)] == [FIRST] * 2
    assert len(warnings) == 1
    assert "claude has no login on this machine" in warnings[0]


def test_codex_has_the_end_in_its_token_and_the_time_beside_it(home: Path, user: User) -> None:
    profile = home / ".config" / "bot-bottle" / "agents"
    url = (profile / "claude.toml").read_text().rpartition("url = ")[2]
    (profile / "codex.toml").write_text(f'extends = "codex"\n[login.refresh]\nurl = {url}')
    (home / ".codex").mkdir()
    file = home / ".codex" / "auth.json"
    tokens = dict.fromkeys(("id_token", "account_id"), "a")
    tokens |= {"access_token": "e30.eyJleHAiOjF9.x", "refresh_token": "canary-e7-refresh-0"}
    file.write_text(
        json.dumps({"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2020-01-01T00:00:00Z"})
    )
    from bot_bottle.login import records

    records.save_own("codex")
    names = ("BOTTLE_CODEX_ACCESS_TOKEN", "BOTTLE_CODEX_ACCOUNT_ID")
    found = resolve([Reference(name, "login", "codex") for name in names], print)
    assert [found[name].reveal() for name in names] == ["canary-e7-access-1", "a"]
    after = json.loads(file.read_text())
    assert after["tokens"] == {
        "id_token": "a",
        "account_id": "a",
        "access_token": "canary-e7-access-1",
        "refresh_token": "canary-e7-refresh-1",
    }
    assert after["last_refresh"] > "2026"


def test_the_value_is_not_in_what_is_shown_of_it(renew: Renew) -> None:
    assert repr(renew(False)) == repr(Secret("x"))
