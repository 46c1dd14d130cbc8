"""Commands in a running microVM, and its end, by a smolvm that is a program on PATH."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.microvm.bottle import execute, sweep_machine
from bot_bottle.errors import SmolvmError
from bot_bottle.host.progress import Progress

Fake = Callable[[str], Path]


@pytest.fixture
def smolvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Make a smolvm that writes its calls down and then runs this shell text."""

    def make(body: str) -> Path:
        program = tmp_path / "smolvm"
        program.write_text(
            "#!/bin/sh\ncase $1 in --version) echo smolvm 99.0.0; exit ;; pack) exit ;; esac\n"
            f'echo "$*" >> {tmp_path}/calls\n{body}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("BOT_BOTTLE_SMOLVM", str(program))
        return program

    return make


def run(*command: str, **env: str) -> int:
    config = BottleConfig(
        slug="blue", command=command, env=env, user="1000", workdir="/work", cpus=0, memory_mib=0
    )
    return execute(config, Progress(), tty=False)


@pytest.mark.parametrize("status", [0, 1, 3, 130, 254])
def test_the_status_of_a_command_is_its_own(smolvm: Fake, status: int) -> None:
    smolvm(f"exit {status}")
    assert run("true") == status


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ('exec: executable file "x" not found in $PATH', 127),
        ("cannot start: No such file or directory", 127),
        ("cannot start: Permission denied", 126),
        ("a program of the user says 255", 255),
    ],
)
def test_a_command_that_cannot_start_has_docker_s_status(smolvm: Fake, words: str, status: int) -> None:
    smolvm(f"echo '{words}' >&2; exit 255")
    assert run("x") == status


def test_a_failure_of_smolvm_is_not_taken_for_the_command_s(smolvm: Fake) -> None:
    smolvm("""echo '{"error":{"code":"BAD","message":"no such machine"}}' >&2; exit 1""")
    with pytest.raises(SmolvmError, match="could not run the command") as caught:
        run("true")
    assert caught.value.why == "no such machine (BAD)"


def test_a_user_that_the_image_lacks_is_explained(smolvm: Fake) -> None:
    message = "user '\\''ghost'\\'' not found in container rootfs"
    smolvm(f"""echo '{{"error":{{"code":"SMOLVM_ERROR","message":"{message}"}}}}' >&2; exit 1""")
    with pytest.raises(SmolvmError, match="could not run the command") as caught:
        run("true")
    assert "--user" in caught.value.next_step


def test_a_machine_that_ended_under_the_command_is_an_error(smolvm: Fake) -> None:
    smolvm("""echo '{"error":{"code":"GONE","message":"connection closed"}}' >&2; exit 1""")
    with pytest.raises(SmolvmError, match="ended before its command did") as caught:
        run("true")
    assert "--memory" in caught.value.next_step


def test_variables_are_in_smolvm_s_environment_and_not_on_its_command_line(
    smolvm: Fake, tmp_path: Path
) -> None:
    smolvm(f"env > {tmp_path}/env")
    assert run("id", KEY="the-value") == 0
    assert "the-value" in (tmp_path / "env").read_text()
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert "the-value" not in call
    assert call.startswith("machine exec --error-format json --name bottle-blue -i -u 1000 -w /work")
    assert call.endswith("-- id")


def test_the_machine_of_a_killed_command_is_deleted(smolvm: Fake, tmp_path: Path) -> None:
    program = smolvm(f'echo "$XDG_CACHE_HOME" > {tmp_path}/cache')
    sweep_machine({"program": str(program), "env": {"XDG_CACHE_HOME": "/theirs"}, "name": "bottle-blue"})
    assert (tmp_path / "calls").read_text() == "machine delete --error-format json -f --name bottle-blue\n"
    assert (tmp_path / "cache").read_text() == "/theirs\n"


def test_a_machine_that_has_gone_already_needs_no_deletion(smolvm: Fake) -> None:
    program = smolvm("""echo '{"error":{"code":"NOT_FOUND","message":"no"}}' >&2; exit 1""")
    sweep_machine({"program": str(program), "env": {}, "name": "bottle-blue"})


def test_a_machine_that_cannot_be_deleted_is_reported(smolvm: Fake) -> None:
    program = smolvm("echo it is stuck >&2; exit 1")
    with pytest.raises(SmolvmError, match="bottle-blue could not be deleted"):
        sweep_machine({"program": str(program), "env": {}, "name": "bottle-blue"})
