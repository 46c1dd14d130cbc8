"""`bottle learn` and `--ask`: what a command needs is found out, and nothing is allowed without a yes."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support.bottle import PROGRAM, Bottle, wait_until
from tests.support.dns_server import dns_server
from tests.support.engines import Docker, Podman
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context
from tests.support.proxied import read_head, server
from tests.support.repos import make_repo
from tests.support.world import API, OTHER, World

GET = "wget -q -O- http://{}/ || echo refused"
TOML = '# ours\nbackend = "docker"\n\n[egress]\nallow = ["api.example.org"]  # the API\n'
WITH_OTHER = TOML.replace('"]', '", "other.example.org:80"]')


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a client for HTTP."""
    return docker.build(busybox_context(tmp_path_factory.mktemp("client"), BOTTLE_DOCKERFILE))


@pytest.fixture
def there(bottle: Bottle, outside: World, tmp_path: Path) -> Iterator[Bottle]:
    """Run `bottle` in that world, with state of its own. Nothing stays."""
    outside.forget()
    changes = {**bottle.changes, "BOT_BOTTLE_STATE_DIR": str(tmp_path / "state")}
    made = replace(bottle, prefix=outside.prefix, changes=changes)
    yield made
    assert not made.leftovers
    assert not [*tmp_path.glob("state/receipts/*.ask*"), *tmp_path.glob("state/receipts/*.policy")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a bottle.toml that allows one host."""
    repo = make_repo(tmp_path / "project")
    repo.commit({"bottle.toml": TOML})
    return repo.top


def argv(image: str, command: str, *options: str) -> list[str]:
    return [command, "-q", "--backend=docker", "--name=blue", *options, "--image", image]


@contextmanager
def at_terminal(there: Bottle, *args: str, cwd: Path) -> Iterator[pexpect.spawn[Any]]:
    """Run `bottle` on a terminal."""
    words = [*there.prefix, str(PROGRAM), *args]
    child = pexpect.spawn(words[0], words[1:], env=there.env(), cwd=str(cwd), timeout=120, encoding="utf-8")
    try:
        yield child
    finally:
        child.close(force=True)


def status(child: pexpect.spawn[Any]) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def answered(child: pexpect.spawn[Any], answers: dict[str, list[str]]) -> list[str]:
    """Answer the questions about each host in turn, and return what came of the requests when all is over.

    A command's output comes to the terminal through the engine, and so may come after the next question.
    """
    child.logfile_read = shown = io.StringIO()
    for host, given in answers.items():
        for answer in given:
            child.expect_exact(f"bottle: blue asks for {host}: ")
            child.expect_exact("(n)? [n] ")
            child.send(f"{answer}\r")
    assert status(child) == 0, shown.getvalue()
    assert shown.getvalue().count("asks for") == sum(map(len, answers.values())), shown.getvalue()
    return re.findall("reached|refused", shown.getvalue())


def get(*hosts: str) -> list[str]:
    return ["--", "sh", "-c", "\n".join(GET.format(host) for host in hosts)]


def test_nothing_more_is_allowed_and_what_was_needed_is_added_after_a_yes(
    there: Bottle, image: str, outside: World, project: Path
) -> None:
    command = get("api.example.org", "other.example.org", "169.254.169.254")
    learned = there(*argv(image, "learn", "--yes"), *command, cwd=project)
    assert learned.code == 0, learned
    assert learned.out.splitlines() == [f"reached {API}:80", "refused", "refused"]
    assert {each["address"] for each in outside.seen()} == {API}
    assert "bottle: this command would have needed\n  other.example.org:80\n" in learned.err
    assert "169.254.169.254:80: it is a private address" in learned.err
    assert (project / "bottle.toml").read_text() == WITH_OTHER
    again = there(*argv(image, "run"), *command, cwd=project)  # nobody could be asked
    assert again.out.splitlines() == [f"reached {API}:80", f"reached {OTHER}:80", "refused"], again
    assert "needed no host" in there(*argv(image, "learn"), *get("other.example.org"), cwd=project).err


def test_a_bottle_that_is_allowed_nothing_is_learned_from_too(
    there: Bottle, image: str, outside: World, tmp_path: Path
) -> None:
    script = f"{GET.format('api.example.org')}; exit 7"
    learned = there(*argv(image, "learn"), "--", "sh", "-c", script, cwd=tmp_path)
    assert (learned.code, learned.out) == (7, "refused\n")
    assert "  api.example.org:80\n" in learned.err
    assert f"add them to [egress] allow of {tmp_path}/bottle.toml" in learned.err
    assert not outside.seen()
    assert not (tmp_path / "bottle.toml").exists()
    proof = json.loads(there("show", "--json", "blue").out)["proof"]
    assert all(each["ok"] for each in proof.values())
    assert proof["refused-host"]["outcome"] == "refused"


def test_the_answer_on_a_terminal_decides(there: Bottle, image: str, tmp_path: Path) -> None:
    for answer, written in (("n", False), ("y", True)):
        with at_terminal(there, *argv(image, "learn"), *get("api.example.org"), cwd=tmp_path) as child:
            child.expect_exact(f"Add them to {tmp_path}/bottle.toml? [y/N]: ")
            child.send(f"{answer}\r")
            assert status(child) == 0
        assert (tmp_path / "bottle.toml").exists() is written
    assert (tmp_path / "bottle.toml").read_text() == '[egress]\nallow = [\n    "api.example.org:80",\n]\n'


@pytest.mark.slow
def test_a_file_that_the_command_has_changed_is_left_alone(there: Bottle, image: str, project: Path) -> None:
    script = f"{GET.format('other.example.org')}; echo '# more' >> bottle.toml"
    options = ("--yes", "--workspace=mount")
    here = replace(there, prefix=())  # the engine cannot see what is mounted in the world
    learned = here(*argv(image, "learn", *options), "--", "sh", "-c", script, cwd=project)
    assert learned.code == 101, learned
    assert "bottle.toml has changed meanwhile" in learned.err
    assert (project / "bottle.toml").read_text() == f"{TOML}# more\n"


@pytest.mark.slow
def test_a_link_in_place_of_the_file_is_left_alone(there: Bottle, image: str, project: Path) -> None:
    (project / "bottle.toml").rename(project / "other")
    (project / "bottle.toml").symlink_to("other")
    learned = there(*argv(image, "learn", "--yes"), *get("other.example.org"), cwd=project)
    assert "it is a symbolic link" in learned.err
    assert (project / "other").read_text() == TOML


def test_the_user_is_asked_before_a_connection_is_refused(
    there: Bottle, image: str, outside: World, project: Path
) -> None:
    hosts = get(*["other.example.org"] * 3, *["wild.example.net"] * 2)
    command = [*argv(image, "run", "--ask", "--yes"), *hosts]
    with at_terminal(there, *command, cwd=project) as child:
        answers = {"other.example.org:80": ["y", "a"], "wild.example.net:80": ["n"]}
        assert answered(child, answers) == [*["reached"] * 3, *["refused"] * 2]
    lines = there("logs", "--egress", "--all", "--json", "blue").out.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(each["host"], each["verdict"], each.get("rule", "")) for each in entries] == [
        ("other.example.org", "allowed", "allowed when asked"),
        ("other.example.org:80", "changed", ""),
        ("other.example.org", "allowed", "other.example.org:80"),
        ("other.example.org", "allowed", "other.example.org:80"),
        ("wild.example.net", "refused", ""),
        ("wild.example.net", "refused", ""),
    ]
    assert {each["address"] for each in outside.seen()} == {OTHER}
    assert (project / "bottle.toml").read_text() == TOML


@pytest.mark.slow
def test_what_was_allowed_when_asked_is_learned(there: Bottle, image: str, project: Path) -> None:
    command = [*argv(image, "learn", "--ask", "--yes"), *get("other.example.org")]
    with at_terminal(there, *command, cwd=project) as child:
        child.expect_exact("(n)? [n] ")
        child.send("y\r")
        child.expect_exact(f"reached {OTHER}:80")
        assert status(child) == 0
    assert (project / "bottle.toml").read_text() == WITH_OTHER


def test_the_command_gets_no_terminal_and_none_of_what_is_typed(
    there: Bottle, image: str, project: Path
) -> None:
    script = "test -t 0 || test -t 1 || echo without; cat; echo over"
    own = ["--", "sh", "-c", script]
    with at_terminal(there, *argv(image, "run", "--ask", "--yes"), *own, cwd=project) as child:
        child.expect_exact("without")
        child.expect_exact("over")
        assert status(child) == 0
    own = ["--", "sh", "-c", "test -t 0 && echo with"]
    with at_terminal(there, *argv(image, "run", "--ask", "-it", "--yes"), *own, cwd=project) as child:
        child.expect_exact("bottle allow --ask blue")
        child.expect_exact("with")
        assert status(child) == 0


def test_a_killed_bottle_leaves_no_socket(there: Bottle, image: str, project: Path, tmp_path: Path) -> None:
    command = [*argv(image, "run", "--ask", "--yes"), "--", "sleep", "100"]
    with at_terminal(there, *command, cwd=project) as child:
        wait_until(lambda: [*tmp_path.glob("state/receipts/*.ask")])
        child.kill(9)
        child.wait()
    there("prune")
    wait_until(lambda: not there.leftovers, 10)


def test_another_terminal_answers_for_a_detached_bottle(
    there: Bottle, image: str, project: Path, tmp_path: Path
) -> None:
    script = "until wget -q -O- http://other.example.org/; do sleep 0.2; done"
    command = argv(image, "run", "--ask", "-d", "--yes")
    with at_terminal(there, *command, "--", "sh", "-c", script, cwd=project) as child:
        child.expect_exact("bottle allow --ask blue")
        assert status(child) == 0
    with at_terminal(there, "allow", "--ask", "blue", cwd=tmp_path) as child:
        child.expect_exact("bottle: blue asks for other.example.org:80")
        child.expect_exact("(n)? [n] ")
        with at_terminal(there, "allow", "--ask", "blue", cwd=tmp_path) as second:
            second.expect_exact("another terminal already answers")
        child.send("a\r")
        assert status(child) == 0  # the bottle has exited
    assert f"reached {OTHER}:80" in there("logs", "-f", "blue").out
    there("allow", "--ask", "blue").failed(101, "not running")
    there("rm", "blue")


def _greet(plug: socket.socket) -> None:
    read_head(plug)
    plug.sendall(b"HTTP/1.0 200 OK\r\n\r\nreached\n")


@pytest.fixture
def at_podman(podman_bottle: Bottle, tmp_path: Path) -> Iterator[tuple[Bottle, str]]:
    """Run `bottle` with podman, and the name and port of a server.

    Each command of a world has mounts of its own, and podman's containers would be seen by one alone.
    """
    with server(_greet) as port, dns_server({"other.example.org": ["127.0.0.1"]}) as names:
        changes = {
            "BOT_BOTTLE_STATE_DIR": str(tmp_path / "state"),
            "BOT_BOTTLE_RESOLVER": "{}:{}".format(*names.address),
        }
        made = replace(podman_bottle, changes={**podman_bottle.changes, **changes})
        yield made, f"other.example.org:{port}"
    assert not made.leftovers


@pytest.mark.slow
def test_podman_learns_and_asks_as_docker_does(
    at_podman: tuple[Bottle, str], podman: Podman, tmp_path: Path
) -> None:
    there, host = at_podman
    local = f"127.0.0.1:{host.partition(':')[2]}"
    image = podman.build(busybox_context(tmp_path / "context", BOTTLE_DOCKERFILE))
    options = ("--engine=podman", f"--allow={local}")
    learned = there(*argv(image, "learn", "--yes", *options), *get(host), cwd=tmp_path)
    assert (learned.code, learned.out) == (0, "refused\n"), learned
    assert (tmp_path / "bottle.toml").read_text() == f'[egress]\nallow = [\n    "{host}",\n]\n'
    (tmp_path / "bottle.toml").unlink()
    command = [*argv(image, "run", "--ask", *options), *get(host, host, "wild.example.net")]
    with at_terminal(there, *command, cwd=tmp_path) as child:
        answers = {host: ["y", "a"], "wild.example.net:80": ["n"]}
        assert answered(child, answers) == ["reached", "reached", "refused"]
    script = f"until wget -q -O- http://{host}/; do sleep 0.2; done"
    command = [*argv(image, "run", "--ask", "-d", *options), "--", "sh", "-c", script]
    with at_terminal(there, *command, cwd=tmp_path) as child:
        child.expect_exact("bottle allow --ask blue")
        assert status(child) == 0
    with at_terminal(there, "allow", "--ask", "blue", cwd=tmp_path) as child:
        child.expect_exact(f"bottle: blue asks for {host}")
        child.expect_exact("(n)? [n] ")
        child.send("a\r")
        assert status(child) == 0  # the bottle has exited
    assert there("logs", "-f", "blue").out.endswith("reached\n")
    there("rm", "blue")
