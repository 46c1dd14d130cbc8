"""process.py against real programs: ends, limits, signals, masks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.bottle import wait_until

from bot_bottle.host import process, process_tree
from bot_bottle.host.process import CommandFailed, Masked


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def alive(pid: int) -> bool:
    return process_tree.start_time(pid) != "" and not Path(f"/proc/{pid}/stat").read_text().split(")")[
        1
    ].startswith(" Z")


def test_run_gives_both_streams_and_the_code() -> None:
    done = process.run(sh("cat; echo err >&2; exit 3"), timeout=10, check=False, input=b"in")
    assert (done.code, done.stdout, done.stderr, done.complaint) == (3, b"in", b"err\n", "err")


def test_a_failure_holds_the_programs_words_and_its_command() -> None:
    with pytest.raises(CommandFailed, match="sh failed with exit status 4") as caught:
        process.run(sh("echo no such thing >&2; exit 4"), timeout=10)
    assert "no such thing" in str(caught.value)
    assert "command: sh -c" in str(caught.value)


def test_a_program_that_is_not_there_is_the_same_failure() -> None:
    with pytest.raises(CommandFailed, match="could not be started") as caught:
        process.run(["no-such-program-here"], timeout=10)
    assert caught.value.not_found
    assert "No such file" in caught.value.why


def test_a_program_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    for seconds in (0.5, 5, 50):  # a busy machine may take long to begin
        with pytest.raises(CommandFailed, match="did not end within"):
            process.run(sh(f"sleep 600 & echo $! > {mark}.new; mv {mark}.new {mark}; wait"), timeout=seconds)
        if mark.exists():
            break
    assert not alive(int(mark.read_text()))


def test_a_program_that_starts_another_is_shown_as_that_one(caplog: pytest.LogCaptureFixture) -> None:
    argv = process.ShownAs([*sh("exec sleep 60")], ["sleep", "60 or so"])
    with caplog.at_level("INFO", "bot_bottle"), process.background(argv) as child:
        assert child.code is None
    assert caplog.messages == ["+ sleep '60 or so'"]


def test_masked_arguments_are_never_shown() -> None:
    secret = Masked("TOKEN=abc123", "TOKEN=***")
    with pytest.raises(CommandFailed) as caught:
        process.run(["false", secret], timeout=10)
    assert "abc123" not in str(caught.value) + repr(secret) + process.shown(["x", secret])
    assert process.run(["printf", "%s", secret], timeout=10).stdout == b"TOKEN=abc123"


def test_follow_gives_lines_as_they_come_and_keeps_the_last() -> None:
    lines: list[str] = []
    done = process.follow(
        sh("for i in $(seq 100); do echo line $i; done; echo bad >&2; exit 5"), lines.append
    )
    assert lines[:2] == ["line 1", "line 2"]
    assert len(lines) == 101
    assert done.code == 5
    assert done.complaint.splitlines()[-1] == "bad"
    assert len(done.complaint.splitlines()) == 40


def test_reading_streams_and_checks_the_status_at_the_end() -> None:
    with process.reading(sh("head -c 5000000 /dev/zero")) as stream:
        assert sum(len(part) for part in iter(lambda: stream.read(65536), b"")) == 5_000_000
    with (
        pytest.raises(CommandFailed, match="exit status 9"),
        process.reading(sh("echo part; exit 9")) as stream,
    ):
        stream.read()


def test_reading_that_stops_early_ends_the_program() -> None:
    with process.reading(sh("echo $$; exec yes")) as stream:
        pid = int(stream.readline())
    assert not alive(pid)


def test_background_ends_with_its_block_even_when_it_ignores_sigterm(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with process.background(sh(f"trap '' TERM; touch {ready}; exec sleep 60")) as child:
        wait_until(ready.exists)
        assert child.code is None
    assert not alive(child.pid)


def test_a_program_hears_of_its_end_by_that_of_those_it_has_started(tmp_path: Path) -> None:
    ready, tidied = tmp_path / "ready", tmp_path / "tidied"
    with process.background(sh(f"sh -c ': >{ready}; exec sleep 60'; touch {tidied}; exit 3")) as child:
        wait_until(ready.exists)
    assert tidied.exists()
    assert child.code == 3


def test_what_a_program_has_started_in_another_session_ends_with_it(tmp_path: Path) -> None:
    pid, script = tmp_path / "pid", tmp_path / "script"
    script.write_text(f"trap '' TERM; echo $$ > {pid}.new; mv {pid}.new {pid}; while :; do sleep 0.05; done")
    with process.background(sh(f"setsid sh {script}; exit 0")) as child:
        wait_until(pid.exists)
    assert not alive(int(pid.read_text()))
    assert not alive(child.pid)


def test_a_stray_is_only_ended_if_it_is_still_the_same_process() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    started = process_tree.start_time(child.pid)
    assert not process_tree.end_orphan(child.pid, started + "0")
    assert child.poll() is None
    assert not process_tree.end_orphan(child.pid, "")
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)  # it has stopped
    child_ended = process_tree.end_orphan(child.pid, started, timeout=0.1)
    assert child_ended
    assert child.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_us_ends_the_children(signum: int, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = (
        "from bot_bottle.host import signals; from bot_bottle.host import process\n"
        "signals.install()\n"
        f"process.run(['sh', '-c', 'echo $$ > {mark}; exec sleep 60'], timeout=60)\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    wait_until(lambda: mark.exists() and mark.read_text().strip())
    ours.send_signal(signum)
    _, err = ours.communicate(timeout=20)
    assert b"Interrupted" in err
    assert not alive(int(mark.read_text()))


def test_the_age_of_a_process_is_from_its_start_on() -> None:
    asked = (
        "import time; begun = time.monotonic(); from bot_bottle.host.process_tree import age; "
        "least = time.monotonic() - begun; print(least, age())"
    )
    begun = time.monotonic()
    least, child = map(float, process.run([sys.executable, "-c", asked], timeout=60).stdout.split())
    own, took = process_tree.age(), time.monotonic() - begun
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert own is not None
    assert 0 < least <= child <= took + tick
    assert own > child
