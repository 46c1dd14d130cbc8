"""`bottle` as a user runs it: a process of its own, and what it must not leave behind."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("bottle")
_MARK = "BOT_BOTTLE_TEST_MARK"
_SETTINGS = ("BOT_BOTTLE_ENGINE", "BOT_BOTTLE_ACCEL", "BOT_BOTTLE_SMOLVM", "DOCKER_BUILDKIT")

Changes = Mapping[str, str | None]


@dataclass(frozen=True)
class Ended:
    """How a bottle command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard output of a command that succeeded."""
        assert self.code == 0, self
        assert self.out.count("\n") == 1, self
        assert self.out.endswith("\n"), self
        return self.out[:-1]

    @property
    def path(self) -> Path:
        """The path on that line."""
        path = Path(self.line)
        assert path.is_file(), self
        return path

    def failed(self, code: int, *words: str) -> None:
        """Hold that it failed with this status and one message with these words, and nothing else."""
        assert self.code == code, self
        assert self.out == "", self
        assert "Traceback" not in self.err, self
        assert "bug in bottle" not in self.err, self
        messages = [line for line in self.err.splitlines() if line.startswith("bottle: ")]
        assert len(messages) == 1, self
        assert len(self.err) < 5000, self
        missing = [each for each in words if each not in self.err]
        assert not missing, (missing, self)


@dataclass(frozen=True)
class Bottle:
    """Runs `bottle` with a cache folder of its own. `changes` to the environment: None takes a name away.

    `prefix` is put before its command line.
    """

    cache: Path
    changes: Changes = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    prefix: tuple[str, ...] = ()
    started: list[subprocess.Popen[str]] = field(default_factory=list, compare=False, repr=False)

    def env(self, changes: Changes | None = None) -> dict[str, str]:
        """The whole environment of a command."""
        own = {**os.environ, "BOT_BOTTLE_CACHE_DIR": str(self.cache), _MARK: self.mark}
        wanted = {**own, **dict.fromkeys(_SETTINGS), **self.changes, **(changes or {})}
        return {name: value for name, value in wanted.items() if value is not None}

    def start(
        self,
        *args: str | Path,
        env: Changes | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a command and give its process."""
        process = subprocess.Popen(
            [*self.prefix, PROGRAM, *args],
            env=self.env(env),
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def kill_started(self) -> None:
        """Kill the commands that a failed test did not wait for, so that no other test meets them."""
        for process in self.started:
            with process:
                if process.poll() is None:
                    process.kill()

    def __call__(
        self, *args: str | Path, env: Changes | None = None, cwd: Path | None = None, timeout: float = 120
    ) -> Ended:
        """Run a command to its end."""
        return end(self.start(*args, env=env, cwd=cwd), timeout)

    def processes(self) -> list[str]:
        """The processes that run on behalf of this bottle's commands, by pid and command line."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                marked = f"{_MARK}={self.mark}".encode() in (process / "environ").read_bytes().split(b"\0")
                # QEMU has no variables of ours; one whose folder has gone has outlived its bottle
                place = str((process / "cwd").readlink())
                lost = place.startswith(f"{self.cache}/runs/") and place.endswith(" (deleted)")
                if marked or lost:
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    found.append(f"{process.name} {words[:200]}")
        return found

    def scraps(self) -> list[str]:
        """What in the cache folder belongs to a command under way, or is half of something."""
        found = [str(path) for path in (self.cache / "runs").glob("run-*")]
        artifacts = self.cache / "smolmachines"
        for path in artifacts.iterdir() if artifacts.is_dir() else []:
            whole = {path.with_suffix(".json"), path.with_suffix(".smolmachine")}
            belongs = path in whole or path.suffix in (".parts", ".erofs", ".erofs-sum")
            is_lock = path.suffix == ".lock" and path.stat().st_size == 0
            if not (is_lock or (belongs and all(each.is_file() for each in whole))):
                found.append(str(path))
        return found

    @property
    def leftovers(self) -> list[str]:
        """All that a command that has ended must not leave."""
        return self.scraps() + self.processes()

    @property
    def artifacts(self) -> list[Path]:
        """The artifacts in the cache."""
        return sorted((self.cache / "smolmachines").glob("*.smolmachine"))


def end(process: subprocess.Popen[str], timeout: float = 60) -> Ended:
    """Wait for a command's end."""
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return Ended(process.returncode, out, err)


def wait_until(there: Callable[[], object], seconds: float = 40, pause: float = 0.002) -> None:
    """Wait for something, asking again and again; less often when it lasts, as asking may be costly."""
    deadline, longest = time.monotonic() + seconds, max(pause, 0.02)
    while not there():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(pause)
        pause = min(pause * 1.2, longest)
