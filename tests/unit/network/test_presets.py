"""Presets: each has valid entries, as narrow as they can be, and is found by its name only."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.network.policy import load_policy, parse_policy, save_policy
from bot_bottle.network.presets import expand_preset, preset_names

NAMES = ("crates", "debian", "github-read", "go", "npm", "pypi")


def test_there_is_a_preset_for_what_everybody_needs() -> None:
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_hosts_with_a_port_and_nothing_else(name: str) -> None:
    rules = parse_policy([name]).rules
    assert rules == parse_policy([f"preset:{name}"]).rules == parse_policy([f" {name} "]).rules
    assert tuple(map(str, rules)) == expand_preset(name)  # written as they are shown
    for rule in rules:
        assert isinstance(rule.target, str)
        assert not rule.target.startswith(".")
        assert rule.port == 443 or (name, rule.port) == ("debian", 80)


def test_a_preset_is_one_of_several_entries() -> None:
    both = parse_policy(["pypi", "api.example.org", "pypi", "npm"]).rules
    assert set(both) == {*parse_policy(["pypi"]).rules, *parse_policy(["npm", "api.example.org"]).rules}


def test_what_only_reads_refuses_what_writes() -> None:
    policy = parse_policy(["github-read"])
    host = expand_preset("github-read")[0].partition(":")[0]
    fetch = [("GET", "/o/r.git/info/refs?service=git-upload-pack"), ("POST", "/o/r.git/git-upload-pack")]
    assert all(policy.decide_request(host, 443, *request).allowed for request in fetch)
    write = [("POST", "/o/r.git/git-receive-pack"), ("POST", "/login"), ("PUT", "/o/r"), ("PATCH", "/")]
    assert not any(policy.decide_request(host, 443, *request).allowed for request in write)
    assert all(policy.reads(str(rule.target), 443) for rule in policy.rules)


def test_a_bucket_is_allowed_for_the_files_of_the_proxy_alone() -> None:
    policy = parse_policy(["go"])
    restricted = [rule for rule in policy.rules if rule.restricts_requests]
    assert len(restricted) == 1
    host, path = str(restricted[0].target), restricted[0].path.removesuffix("*")
    assert policy.decide_request(host, 443, "GET", f"{path}x.zip?Expires=1").allowed
    assert not policy.decide_request(host, 443, "GET", "/another-bucket/x.zip").allowed
    assert not policy.decide_request(host, 443, "PUT", f"{path}x.zip").allowed


class _Refusing(socketserver.StreamRequestHandler):
    """An HTTP proxy that notes what is asked for, and refuses it."""

    def handle(self) -> None:
        words = self.rfile.readline().decode("latin-1").split()
        self.server.asked.append(words[1])  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_pip_asks_by_default_for_a_host_of_its_preset(tmp_path: Path) -> None:
    asked: list[str] = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Refusing) as proxy:
        proxy.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        argv = [sys.executable, "-m", "pip", "--isolated", "download", "--retries=0", "--no-cache-dir", "x"]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "https_proxy": address, "http_proxy": address}
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, check=False, timeout=120)
        proxy.shutdown()
        thread.join()
    assert done.returncode == 1
    policy = parse_policy(["pypi"])
    destinations = {(host, int(port)) for host, _, port in (each.rpartition(":") for each in asked)}
    assert destinations
    assert all(policy.decide(*each).allowed for each in destinations), destinations


def test_a_name_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SpecError) as refused:
        parse_policy(["preset:nothing"])
    assert all(name in refused.value.next_step for name in NAMES)


def test_a_host_with_the_name_of_a_preset_is_written_with_a_final_dot_or_a_port(tmp_path: Path) -> None:
    policy = parse_policy(["go.", "npm:4873"])
    assert [(rule.target, rule.port) for rule in policy.rules] == [("go", None), ("npm", 4873)]
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy") == policy
