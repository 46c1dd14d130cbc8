"""What a bottle's proxy needs before it is started, and how it starts."""

from __future__ import annotations

import io
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.bottle import wait_until

from bot_bottle.errors import SpecError, WallsError
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.unix_sockets import connect
from bot_bottle.network.credentials import CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import check_reading, parse_policy
from bot_bottle.network.proxy_process import ProxyProcess, run_proxy


@pytest.mark.parametrize(
    ("entry", "credentials"), [("a.example.org GET", False), ("a.example.org", True)], ids=["rule", "secret"]
)
def test_only_requests_that_must_be_read_need_mitmproxy(
    entry: str, credentials: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mitmproxy", raising=False)
    monkeypatch.setattr(sys, "path", [])
    check_reading(parse_policy(["a.example.org"]), credentials=False)
    with pytest.raises(SpecError, match="needs mitmproxy, which is not installed") as raised:
        check_reading(parse_policy([entry]), credentials=credentials)
    assert "pip install 'bot-bottle[egress]'" in raised.value.next_step


@contextmanager
def running(folder: Path, said: io.StringIO) -> Iterator[ProxyProcess]:
    record = EgressFiles(folder / "log", folder / "policy")
    store = CredentialStore((), folder / "bundle")
    policy = parse_policy(["api.example.org"])
    with run_proxy(policy, record, folder, RunDir(folder), store, Progress("plain", said)) as proxy:
        yield proxy


def pass_on(listener: socket.socket, proxy: ProxyProcess) -> None:
    with connect(proxy.folder, proxy.socket.name) as channel:
        socket.send_fds(channel, [b"l"], [listener.fileno()])


def test_what_is_sent_to_a_proxy_before_it_has_loaded_is_answered(tmp_path: Path) -> None:
    said = io.StringIO()
    with running(tmp_path, said) as proxy, socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.process.send(signal.SIGSTOP)
        pass_on(listener, proxy)
        with socket.create_connection(listener.getsockname(), 20) as client:
            client.sendall(b"CONNECT other.example.org:1 HTTP/1.1\r\nHost: other.example.org:1\r\n\r\n")
            assert not proxy.started
            proxy.process.send(signal.SIGCONT)
            proxy.wait()
            assert client.recv(12) == b"HTTP/1.1 403"
    assert said.getvalue() == ""


def test_a_proxy_that_ends_before_it_listens_did_not_start(tmp_path: Path) -> None:
    said = io.StringIO()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(WallsError, match="did not start") as caught,
        running(tmp_path, said) as proxy,
    ):
        proxy.process.send(signal.SIGKILL)
        wait_until(lambda: proxy.ended)
        pass_on(listener, proxy)  # the program that does it is not what fails
        proxy.words.write_text("why\n")
        proxy.wait()
    assert caught.value.why == "why"
    assert said.getvalue() == ""  # it is not told a second time
    assert not (tmp_path / "policy").exists()
