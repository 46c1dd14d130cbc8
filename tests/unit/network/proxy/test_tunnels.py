"""Tunnels through the proxy, a real process, to real servers of the loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.proxied import Proxied, echo, proxied, read_all, read_head, server


@pytest.fixture(scope="module")
def echoing() -> Iterator[int]:
    with server(echo) as port:
        yield port


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with proxied(tmp_path_factory.mktemp("proxy")) as made:
        yield made


@pytest.fixture
def proxy(shared: Proxied, echoing: int) -> Proxied:
    """The proxy of this module, which allows one server, as `localhost` and by its address."""
    shared.forget()
    shared.allow(f"127.0.0.1:{echoing}", f"localhost:{echoing}")
    return shared


def test_bytes_pass_both_ways_and_are_counted(proxy: Proxied, echoing: int) -> None:
    plug, head = proxy.tunnel(f"127.0.0.1:{echoing}")
    with plug:
        assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
        for _ in range(3):
            plug.sendall(b"\0hello")
            assert plug.recv(100) == b"\0hello"
    (entry,) = proxy.log(1)
    assert entry["verdict"] == "allowed"
    assert (entry["host"], entry["port"], entry["up"], entry["down"]) == ("127.0.0.1", echoing, 18, 18)
    assert entry["rule"] == f"127.0.0.1:{echoing}"


def test_the_end_of_input_is_passed_on_and_the_other_way_stays_open(tmp_path: Path) -> None:
    def total(plug: socket.socket) -> None:
        plug.sendall(str(len(read_all(plug))).encode())

    with server(total) as port, proxied(tmp_path, [f"localhost:{port}", "127.0.0.1"]) as proxy:
        plug, _ = proxy.tunnel(f"localhost:{port}")
        with plug:
            plug.sendall(b"\0" * 3_000_000)
            plug.shutdown(socket.SHUT_WR)
            assert read_all(plug) == b"3000000"


def test_a_server_may_speak_first(tmp_path: Path) -> None:
    def greet(plug: socket.socket) -> None:
        plug.sendall(b"220 ready\r\n")
        plug.sendall(b"you said " + plug.recv(100))

    with server(greet) as port, proxied(tmp_path, [f"localhost:{port}", "127.0.0.1"]) as proxy:
        plug, _ = proxy.tunnel(f"localhost:{port}")
        with plug:
            assert plug.recv(100) == b"220 ready\r\n"
            plug.sendall(b"EHLO me\r\n")
            assert plug.recv(100) == b"you said EHLO me\r\n"


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("other.example.org:443", 403, "it is not allowed"),
        ("localhost:9", 403, "its port is not allowed"),
        ("x.bottle:80", 403, "there is no such service"),
        ("LOCALHOST.:9", 403, "its port is not allowed"),
        ("localhost", 400, "host and port are not valid"),
        ("user@localhost:9", 400, "host and port are not valid"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_reason(
    proxy: Proxied, target: str, status: int, reason: str
) -> None:
    plug, head = proxy.tunnel(target)
    with plug:
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert reason in read_all(plug).decode()
    if status == 403:
        (entry,) = proxy.log(1)
        assert (entry["verdict"], reason in entry["reason"]) == ("refused", True)


def test_a_server_that_does_not_answer_is_a_bad_gateway(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with proxied(tmp_path, ["127.0.0.1"]) as proxy:
        plug, head = proxy.tunnel(f"127.0.0.1:{port}")
        plug.close()
        assert head.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert proxy.log(1)[0]["verdict"] == "failed"


def test_a_changed_policy_is_in_force_at_once(proxy: Proxied, echoing: int) -> None:
    target = f"127.0.0.1:{echoing}"
    stays, _ = proxy.tunnel(target)
    proxy.allow("localhost")
    plug, head = proxy.tunnel(target)
    plug.close()
    assert head.startswith(b"HTTP/1.1 403")
    with stays:
        stays.sendall(b"\0still here")
        assert stays.recv(100) == b"\0still here"
    proxy.allow("127.0.0.1")
    plug, head = proxy.tunnel(target)
    plug.close()
    assert head.startswith(b"HTTP/1.1 200")


def test_services_are_reached_by_name_and_nothing_beside_them(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, server(echo) as port:
        listener.bind(str(tmp_path / "service"))
        listener.listen()
        services = {"host.bottle:5432": f"127.0.0.1:{port}", "git.bottle:80": str(tmp_path / "service")}
        with proxied(tmp_path, services=services) as proxy:
            plug, head = proxy.tunnel("host.bottle:5432")
            with plug:
                assert b" 200 " in head
                plug.sendall(b"GET / HTTP/1.1\r\nHost: anything\r\n\r\n")
                assert plug.recv(100).startswith(b"GET / HTTP/1.1")
            with proxy.connect() as plug:
                plug.sendall(b"GET http://git.bottle/x HTTP/1.1\r\nHost: git.bottle\r\n\r\n")
                served, _ = listener.accept()
                assert read_head(served).startswith(b"GET /x HTTP/1.1\r\nHost: git.bottle\r\n")
                served.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                assert read_head(plug).startswith(b"HTTP/1.1 200 OK")
                assert plug.recv(10) == b"hi"
                served.close()
            for other in ("host.bottle:5433", "git.bottle:443", "a.host.bottle:5432", f"localhost:{port}"):
                plug, head = proxy.tunnel(other)
                plug.close()
                assert b" 403 " in head
            allowed = [each["rule"] for each in proxy.log(6) if each["verdict"] == "allowed"]
            assert sorted(allowed) == sorted(services)  # each is logged when it has ended
