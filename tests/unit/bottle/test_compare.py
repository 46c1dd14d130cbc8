"""A command in both backends: what is asked of each from inside, what is compared, what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bot_bottle.backend.base import OnProved, Place
from bot_bottle.bottle import compare as twin
from bot_bottle.bottle.compare import Row, Side, compare
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli import compare as comparison
from bot_bottle.engine.engine import BuildRequest
from bot_bottle.engine.source import Source
from bot_bottle.errors import SpecError, UsageError
from bot_bottle.host.process import Completed
from bot_bottle.host.progress import Progress
from bot_bottle.network.probes import Proof
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.workspace.spec import Request

SHELLS = [argv for argv in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(argv[0])]


class Here:
    """A bottle that is this machine, with a shell of ours as its `sh`; [] is none."""

    place: Place = "container"

    def __init__(self, shell: list[str], folder: Path) -> None:
        self._shell = shell
        self._folder = folder

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        return 0

    def run_before(self, command: tuple[str, ...]) -> int:
        if not self._shell:
            return 127
        env = {"PATH": os.environ["PATH"], "ONE": "1", "TWO": "a 'b'\nexport c=\"d", "EMPTY": ""}
        return subprocess.run([*self._shell, *command[1:]], env=env, cwd=self._folder).returncode

    def run_after(self, command: tuple[str, ...]) -> Completed:
        raise NotImplementedError


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_any_shell_tells_what_a_command_is_given(shell: list[str], tmp_path: Path) -> None:
    side = Side("docker", "one")
    twin._look(Here(shell, tmp_path), side)
    assert (side.user, side.cwd) == (f"{os.getuid()}:{os.getgid()}", str(tmp_path.resolve()))
    assert side.env is not None
    assert {"PATH", "ONE", "TWO", "EMPTY"} <= side.env.keys()
    assert not {"PWD", "SHLVL", "OLDPWD", "_"} & side.env.keys()
    assert "1" in side.env["ONE"]
    assert "a-value" not in repr(Side("docker", "one", env={"KEY": "a-value"}))


def test_an_image_without_a_shell_tells_nothing(tmp_path: Path) -> None:
    side = Side("docker", "one")
    twin._look(Here([], tmp_path), side)
    assert (side.user, side.cwd, side.env) == (None, None, None)


def sides(tmp_path: Path, left: str = "", right: str = "") -> tuple[Side, Side]:
    both = Side("docker", "a"), Side("smolmachines", "b")
    for side, text in zip(both, (left, right), strict=True):
        side.log = tmp_path / side.name
        side.log.write_text(text)
        side.user, side.cwd, side.env, side.files, side.exit_status = "1:1", "/", {}, {}, 0
    return both


def different(left: Side, right: Side) -> dict[str, Row]:
    return {row.what: row for row in compare(left, right) if row.same is False}


def test_two_alike_do_not_differ(tmp_path: Path) -> None:
    assert different(*sides(tmp_path, "x\n", "x\n")) == {}
    (output,) = [row for row in compare(*sides(tmp_path, "x\ny\n", "y\nx\n")) if row.what == "output"]
    assert output == Row("output", "2 lines", "2 lines, in another order", True)


def test_what_differs_is_told_by_name_and_never_by_value(tmp_path: Path) -> None:
    left, right = sides(tmp_path, "x\n", "x\ny\n")
    left.env = {"SAME": "1", "KEY": "a-secret", "MINE": "b-secret", "HOSTNAME": "left"}
    right.env = {"SAME": "1", "KEY": "c-secret"}
    left.files = {"one": "added 100644 aa", "two": "changed 100644 bb"}
    right.files = {"one": "added 100644 cc"}
    right.exit_status, right.user, right.cwd = 3, "2:2", "/there"
    found = different(left, right)
    parts = ["env", "env KEY", "env MINE", "files", "files one", "files two"]
    assert list(found) == ["exit status", "user", "cwd", *parts, "output"]
    assert found["env KEY"] == Row("env KEY", "set", "set, otherwise", False)
    assert found["files two"] == Row("files two", "changed", "-", False)
    assert "secret" not in repr(found)


def test_what_a_backend_sets_by_itself_is_shown_and_not_judged(tmp_path: Path) -> None:
    left, right = sides(tmp_path)
    left.env, right.env = {"HOSTNAME": "left"}, {"TERM": "xterm"}
    rows = {row.what: row.same for row in compare(left, right)}
    assert (rows["env"], rows["env HOSTNAME"], rows["env TERM"]) == (True, None, None)


def test_what_is_not_known_of_one_is_not_different(tmp_path: Path) -> None:
    left, right = sides(tmp_path)
    left.user = left.env = left.files = None
    assert different(left, right) == {}
    assert {row.left for row in compare(left, right) if row.same is None} >= {"not known"}


def test_hosts_are_compared_where_receipts_have_probes(tmp_path: Path) -> None:
    left, right = sides(tmp_path)
    for side, dns in ((left, "refused"), (right, "silent")):
        outcomes = {"direct-ipv4": "silent", "dns": dns, "allowed": "open"}
        side.record.proof = {name: {"outcome": word, "ok": True} for name, word in outcomes.items()}
    assert different(left, right) == {}
    assert right.record.proof is not None
    right.record.proof["direct-ipv4"]["outcome"] = "open"
    assert different(left, right)["hosts direct-ipv4"] == Row("hosts direct-ipv4", "closed", "open", False)
    right.record.proof = None
    assert different(left, right) == {}


def test_large_outputs_are_compared_whole(tmp_path: Path) -> None:
    text = "x" * (17 << 20)
    assert different(*sides(tmp_path, text, text)) == {}
    assert list(different(*sides(tmp_path, text, text[:-1] + "y"))) == ["output"]


def test_the_table_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = sides(tmp_path)
    left.files = {f"file {number}\x1b[2J\nnew": "added" for number in range(200)}
    comparison._print((left, right), list(compare(left, right)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 103
    assert "--json has all" in shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": Source(archive=Path("image.tar"))}, "archive"),
        ({"workspace": Request("mount")}, "--workspace mount"),
    ],
)
def test_what_cannot_be_done_twice_is_refused(changes: dict[str, object], told: str) -> None:
    given = {"source": Source(build=BuildRequest(Path())), "slug": "try", **changes}
    with pytest.raises(UsageError, match=told):
        twin.twin(BottleSpec(**given), Progress(), ConvertOptions())  # type: ignore[arg-type]


def test_a_name_that_gets_too_long_is_told_before_anything_runs() -> None:
    with pytest.raises(SpecError, match="invalid bottle name"):
        twin.twin(BottleSpec(Source(image="x"), "n" * 60), Progress(), ConvertOptions())
