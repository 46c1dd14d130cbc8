"""A signal is raised once, waits for a shield, and can be collected."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from bot_bottle.errors import Interrupted
from bot_bottle.host import signals


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
    signals.install()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), signum)


def test_a_signal_is_raised_once_and_knows_its_number() -> None:
    with pytest.raises(Interrupted) as caught:
        send(signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM
    send()  # clean-up is under way: a second one changes nothing


def test_a_shield_lets_the_block_finish_first() -> None:
    done = []
    with pytest.raises(Interrupted), signals.defer_signals(), signals.defer_signals():
        send()
        done.append(1)
    assert done == [1]


def test_collected_signals_are_not_raised_and_the_handlers_come_back() -> None:
    with signals.capture_signals() as received:
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert received == [signal.SIGINT, signal.SIGTERM]
    with pytest.raises(Interrupted):
        send()


def test_a_signal_that_our_caller_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install()
    send(signal.SIGHUP)
    with signals.capture_signals() as received:
        send(signal.SIGHUP)
    assert received == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_another_thread_holds_no_signal_back() -> None:
    inside, over = threading.Event(), threading.Event()

    def shielded() -> None:
        with signals.defer_signals():
            inside.set()
            over.wait(5)

    thread = threading.Thread(target=shielded)
    thread.start()
    try:
        assert inside.wait(5)
        with pytest.raises(Interrupted):
            send()
    finally:
        over.set()
        thread.join()
