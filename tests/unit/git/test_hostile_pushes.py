"""Pushes and requests that no git would send, and a server that is killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha1
from pathlib import Path

import pytest
from tests.support.git_world import GitWorld, Inside, cloned, git_world

from bot_bottle.git.rules import PushRules
from bot_bottle.host.wait import wait_until

ZERO = "0" * 40


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitWorld]:
    with git_world(tmp_path, PushRules()) as made:
        yield made


def answer_of(world: GitWorld, request: bytes) -> bytes:
    """Send bytes to the server's socket, and return all that it answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(str(world.socket))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def packet(data: bytes) -> bytes:
    return b"%04x%b" % (len(data) + 4, data)


def packed(*objects: tuple[int, bytes], count: int | None = None) -> bytes:
    """Return a pack of objects of types by number (gitformat-pack(5))."""
    data = b"PACK" + struct.pack(">II", 2, len(objects) if count is None else count)
    for kind, content in objects:
        size, head = len(content) >> 4, bytearray([kind << 4 | len(content) & 15])
        while size:
            head[-1] |= 128
            head.append(size & 127)
            size >>= 7
        data += bytes(head) + zlib.compress(content, 1)
    return data + sha1(data, usedforsecurity=False).digest()


def named(kind: str, content: bytes) -> str:
    return sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def commit_of(tree: str) -> bytes:
    who = "A <a@example.com> 1700000000 +0000"
    return f"tree {tree}\nauthor {who}\ncommitter {who}\n\nwork\n".encode()


def push(world: GitWorld, pack: bytes, new: str, name: str = "refs/heads/bottle/x") -> bytes:
    """Push a pack as git does, and return the answer. References were asked for before."""
    assert world.inside.run("ls-remote", "http://git.bottle/origin").code == 0
    command = f"{ZERO} {new} {name}\0 report-status side-band-64k agent=x"
    body = packet(command.encode()) + b"0000" + pack
    head = (
        "POST /origin/git-receive-pack HTTP/1.1\r\nHost: git.bottle\r\nConnection: close\r\n"
        f"Content-Type: application/x-git-receive-pack-request\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return answer_of(world, head.encode() + body)


def test_a_pack_that_is_damaged_or_lies_is_refused(world: GitWorld) -> None:
    blob = b"content"
    tree = b"100644 a\0" + bytes.fromhex(named("blob", blob))
    commit = commit_of(named("tree", tree))
    whole = packed((1, commit), (2, tree), (3, blob))
    new = named("commit", commit)
    for pack in (
        whole[:-25],
        whole[:-20] + bytes(20),
        packed((1, commit), count=4_000_000_000),
        packed((1, commit), (2, tree), count=1),
        packed((3, blob)),  # without the commit
        packed((1, commit), (3, blob)),  # without its tree
        packed((1, commit), (2, tree)),  # without its file
        b"",
        os.urandom(5000),
    ):
        assert b"ng refs/heads/bottle/x" in push(world, pack, new)
    assert world.remote.refs("refs/heads/bottle") == []
    assert b"ok refs/heads/bottle/x" in push(world, whole, new)


def test_a_tree_that_git_fsck_refuses_is_refused(world: GitWorld) -> None:
    blob = b"[core]\nfsmonitor = evil\n"
    for name in (b".git", b".GIT", b"..", b".", b"a/b", b"git~1", b".g\xe2\x80\x8cit"):
        tree = b"100644 " + name + b"\0" + bytes.fromhex(named("blob", blob))
        commit = commit_of(named("tree", tree))
        said = push(world, packed((1, commit), (2, tree), (3, blob)), named("commit", commit))
        assert b"ng refs/heads/bottle/x" in said, name
        assert world.remote.refs("refs/heads/bottle") == [], name


def test_a_bomb_of_trees_costs_no_time_and_no_memory(world: GitWorld) -> None:
    blob = b"x"
    name, kind = named("blob", blob), "100644"
    objects = [(3, blob)]
    for _ in range(12):  # 10 ** 12 files
        tree = b"".join(f"{kind} d{n}\0".encode() + bytes.fromhex(name) for n in range(10))
        objects.append((2, tree))
        name, kind = named("tree", tree), "40000"
    commit = commit_of(name)
    said = push(world, packed((1, commit), *objects), named("commit", commit))
    assert b"ok refs/heads/bottle/x" in said
    assert world.remote.git("rev-parse", "bottle/x") == named("commit", commit)


def test_a_delta_that_grows_without_limit_is_refused(world: GitWorld) -> None:
    """An object of 4 GiB from a delta of a few bytes: more than git may allocate."""
    base = b"0" * (1 << 16)
    copy = bytes([0b11110000]) + b"\xff\xff\xff"  # 16 MiB from the start of the base
    delta = varint(len(base)) + varint(4 << 30) + copy * 256
    head = packed((3, base), count=2)[:-20]
    size, first = len(delta) >> 4, bytearray([7 << 4 | len(delta) & 15])
    while size:
        first[-1] |= 128
        first.append(size & 127)
        size >>= 7
    body = head + bytes(first) + bytes.fromhex(named("blob", base)) + zlib.compress(delta)
    pack = body + sha1(body, usedforsecurity=False).digest()
    assert b"ng refs/heads/bottle/x" in push(world, pack, named("blob", base))


def varint(number: int) -> bytes:
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


OTHER_REQUESTS = [
    ("GET /origin/info/refs HTTP/1.1", 403),  # git's protocol without servers' logic
    ("GET /origin/HEAD HTTP/1.1", 404),
    ("GET /origin/objects/info/packs HTTP/1.1", 404),
    ("GET /../origin/info/refs?service=git-upload-pack HTTP/1.1", 404),
    ("GET /%2e%2e/info/refs?service=git-upload-pack HTTP/1.1", 404),
    ("GET /origin/../origin/info/refs?service=git-upload-pack HTTP/1.1", 404),
    ("GET /origin/info/refs?service=git-upload-archive HTTP/1.1", 403),
    ("POST /origin/info/refs?service=git-upload-pack HTTP/1.1", 404),
    ("POST /private/git-receive-pack HTTP/1.1", 404),
    ("PUT /origin/info/refs HTTP/1.1", 501),
    ("CONNECT git.bottle:80 HTTP/1.1", 501),
]


def test_nothing_else_is_served(world: GitWorld) -> None:
    for line, status in OTHER_REQUESTS:
        said = answer_of(world, f"{line}\r\nHost: git.bottle\r\nConnection: close\r\n\r\n".encode())
        assert said.split()[1] == str(status).encode(), (line, said)


INVALID_LENGTHS = [
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 1_0\r\n\r\n0123456789",
    b"Content-Length: 99999\r\n\r\nshort",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
]


def test_a_request_with_an_invalid_length_is_refused(world: GitWorld) -> None:
    for head in INVALID_LENGTHS:
        said = answer_of(world, b"POST /origin/git-receive-pack HTTP/1.1\r\nHost: git.bottle\r\n" + head)
        assert said.split()[1] == b"400", (head, said)


def test_many_connections_at_once_do_not_stop_it(world: GitWorld) -> None:
    clients = []
    for _ in range(200):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(world.socket))
        clients.append(client)
    for client in clients:
        client.close()
    clone = cloned(world)
    clone.commit({"a": "a\n"})
    clone.pushes("origin", "HEAD")


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_server_has_pushed_all_or_nothing(tmp_path: Path, kills: int) -> None:
    """Two branches are pushed at once: the remote has both or neither, and the push can be repeated."""
    done = 0
    clone: Inside | None = None
    for number in range(kills):
        with git_world(tmp_path, PushRules(secrets=False)) as world:
            clone = cloned(world) if clone is None else Inside(clone.top, env=world.inside.env)
            began = time.monotonic()
            clone.commit({"work": f"{number}\n"})
            clone.pushes("-q", "origin", "HEAD:bottle/one", "HEAD:bottle/two")
            takes = time.monotonic() - began
            commit = clone.commit({"work": f"{number} again\n"})
            push = ["git", "push", "-q", "origin", "HEAD:bottle/one", "HEAD:bottle/two"]
            pushing = subprocess.Popen(push, cwd=clone.top, env=clone.env, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0, takes))  # noqa: S311
            end_all(world)
            pushing.wait(60)
        wait_until(partial(no_writers, world), 60)
        tips = [world.remote.git("rev-parse", f"bottle/{name}") for name in ("one", "two")]
        assert tips[0] == tips[1], number
        done += tips[0] == commit
        world.remote.git("fsck", "--strict", "--connectivity-only")
    print(f"{done} of {kills} killed pushes had reached the remote")  # noqa: T201 - for `pytest -s`


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    with git_world(tmp_path, PushRules()) as world:
        clone = cloned(world)
    quarantine = world.quarantine
    left = ["packed-refs.lock", "refs/heads/main.lock", "config.lock", "objects/pack/tmp_pack_x"]
    left += ["objects/tmp_objdir-incoming-x/pack/tmp_idx_x"]
    for name in left:
        (quarantine / name).parent.mkdir(parents=True, exist_ok=True)
        (quarantine / name).touch()
    with git_world(tmp_path, PushRules()) as world:
        clone = Inside(clone.top, env=world.inside.env)
        world.user.commit({"b": "b\n"})
        world.user.git("push", "-q", "origin", "main")
        assert clone.run("fetch", "-q", "origin").code == 0
        clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
    assert not any((quarantine / name).exists() for name in left)


def end_all(world: GitWorld) -> None:
    """Kill the server and all that it has started. The remote's own git is on another machine usually."""
    for pid in [world.server, *family(world.server)]:
        with suppress(ProcessLookupError):
            if pid not in writers(world):
                os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return [*children, *(each for child in children for each in family(child))]


def no_writers(world: GitWorld) -> bool:
    return not writers(world)


def writers(world: GitWorld) -> list[int]:
    """Return the processes of the remote's side, by the folder that they are in."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == world.remote.top:
                found.append(int(process.name))
    return found
