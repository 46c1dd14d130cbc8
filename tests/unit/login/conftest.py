"""A user with a login of Claude Code, and the server that refreshes its tokens, at its real name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.dns_server import dns_server
from tests.support.https_site import Tokens, make_certificate
from tests.support.proxied import server

from bot_bottle.login import records

TOKENS, API, OTHER = "platform.claude.com", "api.anthropic.com", "other.example.org"
VARIABLE = "CLAUDE_CODE_OAUTH_TOKEN"
FIRST = "canary-e7-access-0"


@dataclass
class User:
    """A user's home, with the agent's own file, and the server of its tokens."""

    home: Path
    file: Path
    tokens: Tokens
    certificate: Path
    resolver: tuple[str, int]

    def write(self, ends: float, access: str = FIRST, refresh: str = "canary-e7-refresh-0") -> None:
        """Write the agent's file, whose access token ends in so many seconds."""
        login = {
            "accessToken": access,
            "refreshToken": refresh,
            "expiresAt": int((time.time() + ends) * 1000),
            "scopes": ["user:inference"],
            "subscriptionType": "max",
        }
        self.file.write_text(json.dumps({"claudeAiOauth": login, "mcpOAuth": {"x": 1}}))

    @property
    def login(self) -> dict[str, Any]:
        """What the agent's file has."""
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate") / "both.pem", TOKENS, API, OTHER)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without anything in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(tmp_path / "state"))
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return folder


@pytest.fixture
def user(home: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """A user who has given the login of Claude Code to bottles; its access token has an hour."""
    tokens = Tokens(certificate, "canary-e7-refresh-0")
    names = {TOKENS: ["127.0.0.1"], API: ["127.0.0.1"], OTHER: ["127.0.0.1"]}
    with server(tokens) as port, dns_server(names) as resolver:
        monkeypatch.setenv("BOT_BOTTLE_RESOLVER", f"127.0.0.1:{resolver.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        profile = home / ".config" / "bot-bottle" / "agents" / "claude.toml"
        profile.parent.mkdir(parents=True)
        url = f"https://{TOKENS}:{port}/v1/oauth/token"
        profile.write_text(f'extends = "claude"\n[login.refresh]\nurl = "{url}"\n')
        (home / ".claude").mkdir()
        made = User(home, home / ".claude" / ".credentials.json", tokens, certificate, resolver.address)
        made.write(3600)
        made.file.chmod(0o600)
        records.save_own("claude")
        yield made
