"""Folders, limits, locales and streams that are not as usual: the right thing or one message, and no mess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pytest
from _pytest.mark import ParameterSet
from tests.support.crafted import file, files_tar, layer, saved_files

from bot_bottle.bottle import records
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress

PROGRAM = (sys.executable, "-m", "bot_bottle")
OWN = ("BOT_BOTTLE_CACHE_DIR", "BOT_BOTTLE_STATE_DIR")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
HEADER = "NAME "

Env = Mapping[str, str | None]


def slow(value: object) -> ParameterSet:
    """One that shows the same as another of its test, most likely."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder, which stays so, to start commands in."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image of one file."""
    path = tmp_path / "image.tar"
    path.write_bytes(files_tar(saved_files([layer([file("hello", b"hello\n")])])))
    return path


def environment(home: Path, changes: Env) -> dict[str, str]:
    """The environment of a command that has nothing but a home, with changes: None takes a name away."""
    base = {key: value for key, value in os.environ.items() if not key.startswith(("BOT_BOTTLE_", "XDG_"))}
    wanted: dict[str, str | None] = {**base, "HOME": str(home), **changes}
    return {key: value for key, value in wanted.items() if value is not None}


def bottle(
    *args: str | Path, env: Mapping[str, str], cwd: Path, before: tuple[str, ...] = (), line: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run `bottle`, by itself or as "$@" in a line of shell, and hold that it says no more than it should."""
    argv: tuple[Any, ...] = (*before, *PROGRAM, *args)
    argv = ("bash", "-c", line, "bash", *argv) if line else argv
    done = subprocess.run(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    for words in (b"Traceback", b"bug in bottle", b"Exception ignored"):
        assert words not in done.stderr, done
    assert done.stderr.count(b"bottle: ") <= 1, done
    return done


# --- folders


@pytest.mark.parametrize(
    "changes",
    [
        {"XDG_CACHE_HOME": "made", "XDG_STATE_HOME": "./made"},
        slow({"XDG_CACHE_HOME": "", "XDG_STATE_HOME": ""}),
        slow({"XDG_CACHE_HOME": "~/made", "XDG_STATE_HOME": "~"}),
        slow({"BOT_BOTTLE_CACHE_DIR": "", "BOT_BOTTLE_STATE_DIR": ""}),
        slow({"TMPDIR": "made"}),
        slow({"TMPDIR": "/nonexistent"}),
        {"TMPDIR": "/etc/passwd"},
    ],
    ids=str,
)
def test_what_is_no_folder_is_ignored(changes: Env, home: Path, here: Path, archive: Path) -> None:
    env = environment(home, changes)
    done = bottle("pack", "-q", "--archive", archive, env=env, cwd=here)
    assert done.returncode == 0, done
    assert Path(os.fsdecode(done.stdout[:-1])).parent == home / ".cache/bot-bottle/smolmachines"
    assert bottle("ls", env=env, cwd=here).returncode == 0
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("value", [None, "", "made", "./made", "~"])
def test_a_home_that_is_no_path_is_the_users(
    value: str | None, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for name in (*OWN, "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    users = Path(os.path.expanduser(f"~{os.environ.get('USER', 'root')}"))  # noqa: PTH111 - not by HOME
    assert paths.cache_dir() == users / ".cache/bot-bottle"
    assert paths.state_dir() == users / ".local/state/bot-bottle"
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    assert paths.state_dir() == home / "bot-bottle"


@pytest.mark.parametrize("value", ["/nonexistent", slow("/etc/passwd")])
def test_a_home_that_is_not_there_is_not_made(value: str, home: Path, here: Path, archive: Path) -> None:
    for args in (["ls"], ["cache", "ls"], ["pack", "--archive", str(archive)]):
        done = bottle(*args, env=environment(home, {"HOME": value}), cwd=here)
        assert done.returncode == 107, done
        assert f"{value} is not a folder\nNext: set HOME, or BOT_BOTTLE_CACHE_DIR".encode() in done.stderr
    assert not Path("/nonexistent").exists()


@pytest.mark.root
def test_a_number_without_a_user_has_no_home(home: Path, here: Path) -> None:
    env = environment(home, {"HOME": None, "PYTHONDONTWRITEBYTECODE": "1"})
    before = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
    done = bottle("ls", env=env, cwd=Path("/"), before=before)
    assert done.returncode == 107, done
    assert b"HOME is not set, and the user has none" in done.stderr


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("value", ["made", slow("./made"), slow("~/made"), slow("\n/made")])
def test_a_relative_folder_of_ours_is_refused(name: str, value: str, home: Path, here: Path) -> None:
    args = ["cache", "ls"] if "CACHE" in name else ["ls"]
    done = bottle(*args, env=environment(home, {name: value}), cwd=here)
    assert (done.returncode, done.stdout) == (107, b""), done
    assert f"{name} is not an absolute path".encode() in done.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        slow(b"two words"),
        slow(b"new\nline"),
        b"'\"$;,:%\\",
        slow("\u00e9\u65e5".encode()),
        slow(b"\xff\xfe"),
        slow(b"/".join([b"c" * 100] * 3)),
    ],
)
def test_a_folder_with_an_odd_name_is_used(name: bytes, home: Path, here: Path, archive: Path) -> None:
    cache, state = (os.fsdecode(os.fsencode(home) + b"/" + name + part) for part in (b"-cache", b"-state"))
    env = environment(home, dict(zip(OWN, (cache, state), strict=True)))
    done = bottle("pack", "--archive", archive, env=env, cwd=here)
    assert done.returncode == 0, done
    path = Path(os.fsdecode(done.stdout[:-1]))
    assert path.is_file()
    assert path.is_relative_to(cache)
    assert bottle("cache", "verify", env=env, cwd=here).returncode == 0
    (listed,) = json.loads(bottle("cache", "ls", "--json", env=env, cwd=here).stdout)
    assert listed["path"] == str(path)
    assert bottle("ls", env=env, cwd=here).returncode == 0


READING = (["ls"], ["show"], ["cache", "ls"])
WRITING = (["cache", "prune"], ["stop", "blue"])


@pytest.mark.parametrize(
    "value", ["/etc/passwd", slow("/etc/passwd/below"), slow("/proc/nothing"), slow("/" + "c" * 300)]
)
def test_a_folder_that_cannot_be_one_is_named(value: str, home: Path, here: Path, archive: Path) -> None:
    env = environment(home, dict.fromkeys(OWN, value))
    for args in (*READING, *WRITING, ["pack", "--archive", str(archive)]):
        done = bottle(*args, env=env, cwd=here)
        if value == "/proc/nothing" and args in (["ls"], ["cache", "ls"]):
            assert done.returncode == 0, done  # nothing is there
        elif value == "/proc/nothing" and args == ["show"]:
            assert b"there are no records yet" in done.stderr
        else:
            assert done.returncode in (107, 118), done
            assert value.encode() in done.stderr
            assert b"\nNext: " in done.stderr
            assert b"BOT_BOTTLE_" in done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    "state", ["full", *(pytest.param(state, marks=pytest.mark.slow) for state in ("small", "read-only"))]
)
def test_a_folder_without_room_is_explained(
    state: str, home: Path, here: Path, archive: Path, small_disk: Path
) -> None:
    if state == "full":
        subprocess.run(["fallocate", "-l", "1020K", small_disk / "large"], check=True)
    if state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    env = environment(home, dict(zip(OWN, (f"{small_disk}/cache", f"{small_disk}/state"), strict=True)))
    done = bottle("pack", "--archive", archive, env=env, cwd=here)
    assert done.returncode == (107 if state == "read-only" else 108), done
    assert f"{small_disk}/cache".encode() in done.stderr
    assert b"\nNext: " in done.stderr
    for args in (*READING, ["cache", "verify"], ["config"]):
        assert bottle(*args, env=env, cwd=here).returncode in (0, 118)


@pytest.mark.root
def test_what_root_made_is_named_to_the_user(tmp_path: Path, home: Path, here: Path, archive: Path) -> None:
    """As after a first run with sudo: the folders of a user are root's."""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(0o755)
    env = environment(home, {"PYTHONDONTWRITEBYTECODE": "1"})
    assert bottle("pack", "--archive", archive, env=env, cwd=here).returncode == 0
    for args in (["pack", "--archive", str(archive)], *WRITING):
        done = bottle(*args, env=env, cwd=here, before=NOBODY)
        assert done.returncode == 107, done
        assert f"{home}/.cache/bot-bottle".encode() in done.stderr
        assert b"BOT_BOTTLE_CACHE_DIR" in done.stderr


@pytest.mark.parametrize("args", [["pack"], ["config"], ["run", "--plan"]])
def test_a_current_folder_that_was_removed_is_explained(args: list[str], home: Path, here: Path) -> None:
    done = bottle(*args, env=environment(home, {}), cwd=here, line='rmdir "$PWD"; "$@"')
    assert done.returncode == 2, done
    assert done.stderr == (
        b"bottle: the current folder does not exist any more\nNext: cd to another folder\n"
    )


# --- what is given to programs


def test_programs_are_given_folders_that_are_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = {
        "XDG_CACHE_HOME": "a",
        "XDG_RUNTIME_DIR": "./b",
        "HOME": "c",
        "TMPDIR": "/nonexistent",
        "XDG_DATA_HOME": "/data",
    }
    monkeypatch.setenv("HOME", "c")
    clean = paths.correct_environment(odd)
    assert clean == {"HOME": str(paths.home_dir()), "XDG_DATA_HOME": "/data"}
    assert paths.correct_environment({"TMPDIR": str(tmp_path)}) == {"TMPDIR": str(tmp_path)}


# --- limits


@pytest.mark.parametrize("count", [16, slow(32), slow(64)])
def test_few_open_files_are_enough_to_pack(count: int, home: Path, here: Path, archive: Path) -> None:
    env = environment(home, {})
    done = bottle("pack", "--archive", archive, env=env, cwd=here, line=f'ulimit -n {count}; "$@"')
    assert done.returncode == 0, done


def test_too_few_open_files_are_explained(home: Path, here: Path, archive: Path) -> None:
    env = environment(home, {})
    done = bottle("pack", "--archive", archive, env=env, cwd=here, line='ulimit -n 8; "$@"')
    assert done.returncode in (100, 107), done  # Python's version decides which file is one too many
    assert b"Too many open files\nNext: raise the limit of open files: ulimit -n 1024" in done.stderr


@pytest.mark.parametrize("blocks", [1, 1000])
def test_a_limit_of_a_files_size_is_explained(blocks: int, home: Path, here: Path, archive: Path) -> None:
    env = environment(home, {})
    done = bottle("pack", "--archive", archive, env=env, cwd=here, line=f'ulimit -f {blocks}; "$@"')
    assert done.returncode in (100, 106, 107), done
    assert b"File too large" in done.stderr
    assert not list(home.rglob("*.smolmachine"))


# --- the clock


@pytest.mark.parametrize("ahead", [timedelta(days=9000), timedelta(days=-9000)])
def test_the_last_run_is_the_last_begun_whatever_the_clock_says(
    ahead: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = datetime.now(UTC) + ahead

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls.fromtimestamp(other.timestamp(), tz)

    with monkeypatch.context() as patch:
        patch.setattr(records, "datetime", Clock)
        with records.recorded("blue", Progress()) as first:
            first.image_id = "first"
    with records.recorded("blue", Progress()) as second:
        second.image_id = "second"
        assert records.newest("blue").image_id is None or records.newest("blue").pid == os.getpid()
    assert records.newest("blue").image_id == "second"
    assert [each.name for each in records.newest_of_each()] == ["blue"]


def test_receipts_at_the_end_of_time_are_not_taken_for_the_newest(home: Path) -> None:
    folder = paths.receipts_dir()
    folder.mkdir(parents=True)
    for name in ("99991231T235959.999999Z-blue.json", "99999999T999999.999999Z-blue.json"):
        (folder / name).write_text("{}")
    with records.recorded("green", Progress()):
        pass
    assert records.newest("green").name == "green"


@pytest.mark.parametrize("when", [0, slow(4102444800)])
def test_an_artifact_of_any_time_is_listed(when: int, home: Path, here: Path, archive: Path) -> None:
    env = environment(home, {})
    path = Path(os.fsdecode(bottle("pack", "-q", "--archive", archive, env=env, cwd=here).stdout[:-1]))
    for each in path.parent.iterdir():
        os.utime(each, (when, when))
    listed = bottle("cache", "ls", env=env, cwd=here)
    assert listed.returncode == 0
    assert (b"just now" if when else b"days ago") in listed.stdout
    again = bottle("pack", "--archive", archive, env=env, cwd=here)
    assert b"cached" in again.stderr
    assert abs(path.with_suffix(".json").stat().st_mtime - datetime.now(UTC).timestamp()) < 3600


# --- locales


LOCALES: tuple[Env, ...] = (
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": None, "LANG": None},
    {"LC_ALL": "xx_XX.nonexistent"},
    {"LC_ALL": "C.UTF-8"},
    {"PYTHONIOENCODING": "latin-1"},
)


@pytest.mark.parametrize(
    ("locale", "name"),
    [
        (LOCALES[0], "\u00e9\u65e5".encode()),
        (LOCALES[1], b"\xff\xfe"),
        (LOCALES[-1], "\u00e9\u65e5".encode()),
        *(pytest.param(locale, "\u00e9\u65e5".encode(), marks=pytest.mark.slow) for locale in LOCALES[1:-1]),
        pytest.param(LOCALES[2], b"\xff\xfe", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_names_are_printed_as_they_are(
    locale: Env, name: bytes, home: Path, here: Path, archive: Path
) -> None:
    env = environment(home, locale)
    output = os.fsencode(home) + b"/" + name
    done = bottle("pack", "--archive", archive, "-o", os.fsdecode(output), env=env, cwd=here)
    assert done.returncode == 0, done
    if "PYTHONIOENCODING" not in locale:
        assert done.stdout == output + b"\n"
    assert Path(os.fsdecode(output)).is_file()
    missing = bottle("pack", "--archive", os.fsdecode(output + b"\x1b[31m"), env=env, cwd=here)
    assert missing.returncode == 101
    assert b"\x1b" not in missing.stderr


# --- streams and terminals


@pytest.mark.parametrize(
    "args",
    [["ls"], ["--help"], ["-h"], ["run", "--help"], ["--version"], ["completion", "bash"], ["config"]],
    ids=" ".join,
)
def test_a_reader_that_has_gone_ends_a_command_quietly(args: list[str], home: Path, here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [*PROGRAM, *args], env=environment(home, {}), cwd=here, stdout=gone, stderr=-1, timeout=60
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("streams", "status"),
    [
        ("<&- >&- 2>&-", 0),
        (">/dev/full", 108),
        *(pytest.param(each, 0, marks=pytest.mark.slow) for each in (">&-", "2>&-", "<&-", "2>/dev/full")),
    ],
)
def test_a_closed_stream_is_replaced_by_no_file(
    streams: str, status: int, home: Path, here: Path, archive: Path
) -> None:
    for args in (["ls"], ["--help"], ["pack", "--archive", str(archive)]):
        done = bottle(*args, env=environment(home, {}), cwd=here, line=f'"$@" {streams}')
        assert done.returncode == status, done
    assert list(here.iterdir()) == []


def terminal(*args: str, columns: int, env: Mapping[str, str]) -> str:
    """What a command prints on a terminal."""
    child = pexpect.spawn(
        PROGRAM[0], [*PROGRAM[1:], *args], env=dict(env), encoding="utf-8", dimensions=(24, columns)
    )
    child.expect(pexpect.EOF, timeout=60)
    child.close()
    assert child.exitstatus == 0, child.before
    return str(child.before)


@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_without_colours_gets_none(changes: Env, home: Path, archive: Path) -> None:
    env = environment(home, {"TERM": "xterm", **changes})
    shown = terminal("pack", "--archive", str(archive), columns=80, env=env)
    assert "\x1b[3" not in shown.replace("\x1b[?", "")
    if changes.get("TERM") == "dumb":
        assert "\x1b" not in shown


def test_a_narrow_terminal_gets_whole_words_on_one_live_line(home: Path, archive: Path) -> None:
    env = environment(home, {"TERM": "xterm", "COLUMNS": None})
    shown = terminal("pack", "--archive", str(archive), columns=20, env=env)
    assert "pack" in shown
    assert shown.count("\x1b[1A") <= 1  # what is shown while it works is one line, removed at the end
    assert "Usage: bottle run" in terminal("run", "--help", columns=20, env=env)
    assert HEADER in terminal("ls", columns=20, env=env)
