"""Questions about refused connections: the proxy's end and the answering one, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.network import asking
from bot_bottle.network.asking import Questions
from bot_bottle.network.questions import MOST, Answer, Question, listening, received


@contextmanager
def answering(path: Path, answer: Callable[[Question], Answer | None]) -> Iterator[list[tuple[str, int]]]:
    """Answer questions on a thread until the block ends; yield the list of what was asked."""
    asked: list[tuple[str, int]] = []
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        for question in received(listener, lambda: not over.is_set()):
            asked.append((question.host, question.port))
            if said := answer(question):
                question.answer(said)

    with listening(path) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield asked
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("answer", ["once", "always", "no"])
def test_the_proxy_gets_the_answer(tmp_path: Path, answer: Answer) -> None:
    with answering(tmp_path / "ask", lambda _: answer) as asked:
        assert asyncio.run(Questions(tmp_path / "ask").ask("evil.example.net", 443)) == answer
    assert asked == [("evil.example.net", 443)]
    assert not [*tmp_path.iterdir()]


def test_without_somebody_to_ask_the_answer_is_no(tmp_path: Path) -> None:
    assert asyncio.run(Questions(None).ask("evil.example.net", 443)) == "no"
    assert asyncio.run(Questions(tmp_path / "none").ask("evil.example.net", 443)) == "no"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert asyncio.run(Questions(tmp_path / "dead").ask("evil.example.net", 443)) == "no"


def test_a_host_is_asked_about_once_at_a_time_and_again_later(tmp_path: Path) -> None:
    async def ask() -> list[Answer]:
        end = Questions(tmp_path / "ask")
        first = await asyncio.gather(*(end.ask("a.example.net", 443) for _ in range(5)))
        return [*first, await end.ask("a.example.net", 443), await end.ask("a.example.net", 80)]

    with answering(tmp_path / "ask", lambda _: "once") as asked:
        assert asyncio.run(ask()) == ["once"] * 7
    assert asked == [("a.example.net", 443), ("a.example.net", 443), ("a.example.net", 80)]


def test_after_a_no_the_host_is_not_asked_about_again(tmp_path: Path) -> None:
    async def ask() -> list[Answer]:
        end = Questions(tmp_path / "ask")
        return [await end.ask("a.example.net", port) for port in (443, 443, 80)]

    with answering(tmp_path / "ask", lambda question: "no" if question.port == 443 else "once") as asked:
        assert asyncio.run(ask()) == ["no", "no", "once"]
    assert asked == [("a.example.net", 443), ("a.example.net", 80)]


def test_a_question_that_is_not_answered_in_time_is_a_no_and_asked_again(tmp_path: Path) -> None:
    async def ask() -> list[Answer]:
        end = Questions(tmp_path / "ask", seconds=0.2)
        return [await end.ask("a.example.net", 443) for _ in range(2)]

    ended: list[bool] = []

    def wait(question: Question) -> None:
        while question.lasts():
            pass
        ended.append(True)

    with answering(tmp_path / "ask", wait) as asked:
        assert asyncio.run(ask()) == ["no", "no"]
    assert len(asked) == 2
    assert ended == [True, True]


def test_a_client_that_leaves_does_not_end_the_question_of_another(tmp_path: Path) -> None:
    waits = threading.Event()

    async def ask() -> Answer:
        end = Questions(tmp_path / "ask")
        first = asyncio.create_task(end.ask("a.example.net", 443))
        second = asyncio.create_task(end.ask("a.example.net", 443))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        waits.set()
        return await second

    def answer(_: Question) -> Answer:
        waits.wait()
        return "always"

    with answering(tmp_path / "ask", answer) as asked:
        assert asyncio.run(ask()) == "always"
    assert len(asked) == 1


def test_few_questions_wait_at_a_time_and_denied_hosts_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_REMEMBERED", 20)

    async def ask() -> tuple[list[Answer], list[Answer]]:
        end = Questions(tmp_path / "ask")
        many = await asyncio.gather(*(end.ask("a.example.net", port) for port in range(1, 101)))
        return many, [await end.ask("b.example.net", port) for port in range(1, 101)]

    with answering(tmp_path / "ask", lambda q: "once" if q.host[0] == "a" else "no") as asked:
        many, later = asyncio.run(ask())
    assert many.count("once") == MOST
    assert later == ["no"] * 100
    assert len(asked) == MOST + 20


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"answer": "yes"}\n',
        b'{"answer": ["once"]}\n',
        b"\xff\n",
        b"[" * 4000 + b"\n",
        b"a" * 10_000,
    ],
)
def test_another_answer_is_a_no(tmp_path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ask"))
        listener.listen()

        def serve() -> None:
            plug, _ = listener.accept()
            with plug:
                plug.recv(1000)
                plug.sendall(line)

        thread = threading.Thread(target=serve)
        thread.start()
        assert asyncio.run(Questions(tmp_path / "ask").ask("a.example.net", 443)) == "no"
        thread.join()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"host": "a"}\n',
        b'{"host": 1, "port": 1}\n',
        b'{"host": "a", "port": true}\n',
        b"\xff\n",
        b"[" * 4000 + b"\n",
        b"a" * 10_000,
    ],
)
def test_what_is_not_a_question_is_left_out(tmp_path: Path, line: bytes) -> None:
    with answering(tmp_path / "ask", lambda _: "once") as asked:
        with socket.socket(socket.AF_UNIX) as plug:
            plug.connect(str(tmp_path / "ask"))
            plug.sendall(line)
        assert asyncio.run(Questions(tmp_path / "ask").ask("a.example.net", 443)) == "once"
    assert asked == [("a.example.net", 443)]


def test_only_one_listens_and_what_a_killed_one_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 60) / ("b" * 60) / "ask"  # longer than a socket's path may be
    path.parent.mkdir(parents=True)
    path.write_text("")
    with answering(path, lambda _: "once"):
        with pytest.raises(SpecError, match="another terminal"), listening(path):
            pass
        assert asyncio.run(Questions(path).ask("a.example.net", 443)) == "once"
    assert not [*path.parent.iterdir()]


def test_a_question_is_one_line_of_json(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ask"))
        listener.listen()
        got: list[bytes] = []

        def serve() -> None:
            plug, _ = listener.accept()
            with plug, plug.makefile("rb") as lines:
                got.append(lines.readline())
                plug.sendall(b'{"answer": "once"}\n')

        thread = threading.Thread(target=serve)
        thread.start()
        assert asyncio.run(Questions(tmp_path / "ask").ask("a\n.example.net", 443)) == "once"
        thread.join()
    assert json.loads(got[0]) == {"host": "a\n.example.net", "port": 443}
