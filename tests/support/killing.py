"""Bottles that are killed at any moment: nothing of them stays, and no commit is lost. For every backend."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.support.bottle import Bottle, end, wait_until
from tests.support.callers import Caller

_COMMITS = "n=0; while :; do n=$((n+1)); git commit -q --allow-empty -m $n; echo $n; done"
_WORK = 1.0  # seconds of processor time of a proxy: its start, and some downloads
_BOOT = 300  # seconds; an emulated host on a busy machine


def kill_proxy(bottle: Bottle) -> None:
    """Kill the proxy of the one bottle that runs."""

    [proxy] = proxies(bottle)
    os.kill(int(proxy.split()[0]), signal.SIGKILL)
    wait_until(lambda: not proxies(bottle))


def proxies(bottle: Bottle) -> list[str]:
    """Return the processes of proxies, each with its id and command line."""
    return [each for each in bottle.processes() if "bot_bottle.network.proxy.main" in each]


def hold_network_ends_with_proxy(bottle: Bottle, *options: str | Path) -> None:
    """Hold that nothing is reached any more without the proxy, and that this is said."""
    get = "curl -sS --max-time 20 http://api.example.org"
    script = f"{get}/plain >&2 && echo reached; while {get}/plain >/dev/null 2>&1; do :; done;"
    _ended_after(bottle, f"{script} {get}/plain; echo $?", *options)


def hold_download_ends_with_proxy(bottle: Bottle, *options: str | Path) -> None:
    """Hold the same while a download is under way, which ends too."""
    get = "curl -sS http://api.example.org"
    script = (
        f"{get}/size/8000000000 | {{ head -c 100000 | wc -c >&2; echo reached; wc -c; }};"
        f" {get}/plain --max-time 20; echo $?"
    )
    [received] = _ended_after(bottle, script, *options)
    assert 0 <= int(received) < 8_000_000_000


def _ended_after(bottle: Bottle, script: str, *options: str | Path) -> list[str]:
    """Run a script, kill the proxy when it has reached something, and return what it writes before."""
    with bottle.start("run", *options, "--allow=api.example.org", "--", "sh", "-c", script) as run:
        assert run.stdout
        assert run.stdout.readline() == "reached\n", run.communicate()
        kill_proxy(bottle)
        out, err = run.communicate(timeout=100)
    *words, status = out.split()
    assert status in ("7", "52", "56"), (out, err)  # no connection, or one without an answer
    assert "the bottle's proxy has exited: nothing can be reached any more" in err
    assert run.returncode == 119, err
    return words


def _has_worked(bottle: Bottle, seconds: float) -> bool:
    """Return whether the bottle's proxy has used so much processor time, or has ended."""
    for proxy in proxies(bottle):
        fields = Path(f"/proc/{proxy.split()[0]}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # proc(5): utime, stime
        return ticks / os.sysconf("SC_CLK_TCK") >= seconds
    return True


def kill_proxy_at_any_moment(bottle: Bottle, times: int, *options: str | Path) -> None:
    """Hold that a bottle whose proxy is killed, from its start on, says so, ends with 119 and leaves nothing.

    Its command downloads until that fails.
    """
    get = "while curl -sS http://api.example.org/size/20000000 >/dev/null 2>&1; do echo one; done"
    command = ("--allow=api.example.org", "--", "sh", "-c", f"{get} & {get}; wait; echo over")
    for number in range(times):
        with bottle.start("run", "--name", f"proxied-{number}", *options, *command) as run:
            wait_until(lambda: proxies(bottle), _BOOT, 0.01)
            moment = random.uniform(0, _WORK)  # noqa: S311
            wait_until(partial(_has_worked, bottle, moment), _BOOT)
            assert run.poll() is None, run.communicate()
            kill_proxy(bottle)
            out, err = run.communicate(timeout=100)
        told = f"the proxy {number}, killed after {moment:.2f} s of work: {out.count('one')} downloads"
        assert run.returncode == 119, (told, err)
        assert re.search("the bottle's proxy (has exited|did not start)", err), (told, err)
        assert "Traceback" not in err, (told, err)
        assert bottle.leftovers == [], told
        print(told)  # noqa: T201 - for `pytest -s`


def states(bottle: Bottle) -> dict[str, str]:
    """Give the state of every bottle that is known."""
    return {each["name"]: each["state"] for each in json.loads(bottle("ls", "--json").out)}


def killed_at_any_moment(who: Caller, times: int, longest: float, *options: str) -> None:
    """Hold that bottles which are killed leave nothing after `bottle prune`, and no commit is lost.

    Two of three are killed within `longest` seconds of their start, the third while its command works.
    """
    repo = who.repo()
    before = repo.git("rev-parse", "HEAD")
    for number in range(times):
        name = f"killed-{number}"
        command = (*options, "--workspace", "clone", "--name", name, "--", "sh", "-c", _COMMITS)
        run = who.bottle.start("run", "-q", *command, cwd=repo.top)
        works = number % 3 == 2
        if works:
            wait_until(partial(_works_or_ended, run, who.folder, name), _BOOT, 0.05)
            assert run.poll() is None, end(run)
        moment = random.uniform(0.1, min(longest, 5.0) if works else longest)  # noqa: S311
        time.sleep(moment)
        run.kill()
        run.wait()
        pruned = who.bottle("prune")
        ended = end(run)
        told = f"the bottle {number}, killed {moment:.2f} s {'in its work' if works else 'in'}"
        assert pruned.code == 0, (told, pruned, ended)
        assert "kept" not in pruned.out, (told, pruned)
        printed = [int(word) for word in ended.out.split()]
        if printed:
            kept = int(repo.git("rev-list", "--count", f"bottle/{name}", f"^{before}"))
            assert kept >= max(printed), told
        assert states(who.bottle) == {}, told
        who.left_nothing()
        print(f"{told}: {max(printed, default=0)} commits")  # noqa: T201 - for `pytest -s`


def _works_or_ended(run: subprocess.Popen[str], folder: Path, name: str) -> bool:
    return run.poll() is not None or _works(folder, name)


def _works(folder: Path, name: str) -> bool:
    """Whether a bottle's first commit is there."""
    with suppress(OSError):
        log = folder / f"state/bottles/{name}/clone/work/.git/logs/refs/heads/bottle/{name}"
        return "\tcommit: 1\n" in log.read_text()
    return False
