"""Help that teaches, options that are refused with one message, and documents that say what is true."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bot_bottle import errors
from bot_bottle.cli import main
from bot_bottle.cli.groups import GROUPS

CHECKOUT = Path(__file__).parents[3]
DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command there is, by its words."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


ALL = dict(commands(main.bottle))
NAMES = [" ".join(path) for path in ALL]


def bottle(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bot_bottle", *args], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("path", ALL, ids=NAMES)
def test_help_fits_a_terminal_and_is_whole(path: tuple[str, ...]) -> None:
    command = ALL[path]
    context = click.Context(command, info_name=" ".join(("bottle", *path)), terminal_width=80)
    text = command.get_help(context)
    assert text.startswith("Usage: bottle")
    assert len(path) < 2 or "..." not in command.get_short_help_str(limit=60)
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "help":
            assert option.help, option.name


@pytest.mark.parametrize("path", ALL, ids=NAMES)
def test_help_teaches_with_examples(path: tuple[str, ...]) -> None:
    _, _, examples = (ALL[path].help or "").partition("Examples:")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert len(lines) > 1
    assert all(" ".join(["bottle", *path]) in line for line in lines)
    assert max(map(len, examples.splitlines())) < 100


def shown(document: Path) -> Iterator[str]:
    """The command lines that a document shows: after a prompt in its console blocks."""
    for block in re.findall(r"```console\n(.*?)```", document.read_text(), re.DOTALL):
        yield from re.findall(r"^[$#] (.*)$", block, re.MULTILINE)


def examples() -> Iterator[str]:
    for document in DOCUMENTS:
        yield from shown(document)
    for command in ALL.values():
        _, _, text = (command.help or "").partition("Examples:")
        for line in text.splitlines():
            yield re.split(r"\s{2,}", line.strip())[0]


def words(line: str) -> list[list[str]]:
    """The arguments of each `bottle` in a line of shell."""
    parts = re.split(r"\s*(?:\||;|&&|>)\s*", re.sub(r"(?<=\s)# .*", "", line))
    return [shlex.split(part)[1:] for part in parts if re.match(r"(sudo )?bottle\b", part)]


EXAMPLES = sorted({tuple(args) for line in examples() for args in words(line)})


@pytest.mark.parametrize("args", EXAMPLES, ids=" ".join)
def test_every_example_is_a_command(args: tuple[str, ...]) -> None:
    command: click.Command = main.bottle
    context = click.Context(command)
    rest = list(args)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        assert found is not None, rest[0]
        command, rest = found, rest[1:]
    if not isinstance(command, click.Group):
        command.make_context(" ".join(args), rest, resilient_parsing=False)


def test_examples_were_found() -> None:
    assert len(EXAMPLES) > 20


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["rum"], "no such command: 'rum'"),
        (["run", "--memmory", "1g"], "no such option '--memmory'. Did you mean '--memory'?"),
        (["run", "--cpus", "many"], "'many' is not a valid integer"),
        (["run", "-e"], "'-e' requires an argument"),
        (["run", "--engine", "lxc"], "'lxc' is not one of"),
        (["run", ".", "ls"], "unexpected 'ls' after PATH"),
        (["run", "--twin", "-d", "."], "--twin and --detach exclude each other"),
        (["run", "--twin", "--plan", "."], "--twin and --plan exclude each other"),
        (["run", "--twin", "--backend", "docker", "."], "--twin and --backend exclude each other"),
        (["run", "-m", "much", "."], "invalid memory size"),
        (["run", "-e", "1=2", "."], "invalid variable name"),
        (["run", "--name", "a/b", "."], "invalid bottle name"),
        (["run", "--cpus", "0", "."], "1 to 255 CPUs"),
        (["run", "-w", "src", "."], "must be absolute"),
        (["run", "--platform", "linux/s390x", "."], "runs linux/"),
        (["pack", "--platform", "toaster", "."], "invalid platform: 'toaster'"),
        (["pack", ".", ".."], "unexpected extra argument"),
        (["pack", "--image", "a", "--archive", "b"], "--image and --archive exclude each other"),
        (["pack", "--image", "a", "."], "--image and PATH exclude each other"),
        (["run", "--archive", "a", "--target", "b"], "--archive and --target exclude each other"),
        (["cache", "why", "--image", "a", "--no-cache"], "--image and --no-cache exclude each other"),
        (["cache", "prune", "--all", "--keep-bytes", "1"], "--all cannot be combined with --keep-bytes"),
        (["pack", "--image", "-rf"], "invalid image reference"),
        (["cache", "prune", "--older-than", "soon"], "soon"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_one_message(
    args: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(args) in (2, errors.SpecError.exit_code)
    out, err = capfd.readouterr()
    assert out == ""
    message, *rest = err.splitlines()
    assert message.startswith("bottle: ")
    assert told in message
    assert [line for line in rest if not line.startswith("Next: ")] == []


def test_the_first_page_is_whole_and_loads_next_to_nothing() -> None:
    shown = bottle("--help").stdout
    assert shown == bottle("-h").stdout
    assert max(map(len, shown.splitlines())) <= 80
    options = {name for option in main.bottle.params for name in option.opts}
    assert all(
        f" {name}" in shown for name in options | set(main.bottle.list_commands(click.Context(main.bottle)))
    )
    program = "import sys; from bot_bottle.__main__ import main; main(); print('click' in sys.modules)"
    command = [sys.executable, "-c", program, "--help"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{shown}False\n"


def test_without_a_command_the_help_is_an_error() -> None:
    done = bottle()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: bottle")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_nobodys_file(closed: str, tmp_path: Path) -> None:
    """Or else what is said goes into whatever file is opened next."""
    program = "import os, sys; from bot_bottle.cli import main\nmain.run(['completion', 'nosuch'])\n"
    program += "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.write(fd, str(fd).encode())"
    script = f'exec "$0" "$@" {closed}'
    argv = ["sh", "-c", script, sys.executable, "-c", program, str(tmp_path / "file")]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize(("args", "code"), [(["cache", "ls"], 108), (["--help"], 108), (["rum"], 2)])
def test_a_full_disk_behind_a_stream_is_told_by_the_status(args: list[str], code: int) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bot_bottle", *args], stdout=full, stderr=full, timeout=60, check=False
        )
    assert done.returncode == code


def test_a_cache_folder_that_is_none_is_told(cache_dir: Path) -> None:
    cache_dir.write_text("a file")
    for args in (["cache", "ls"], ["cache", "verify"], ["cache", "prune"]):
        done = bottle(*args)
        assert done.returncode == errors.CacheError.exit_code
        assert str(cache_dir) in done.stderr
        assert "BOT_BOTTLE_CACHE_DIR" in done.stderr


@pytest.mark.parametrize("command", ["run", "exec"])
def test_what_docker_users_type_by_habit_is_taken(command: str) -> None:
    assert bottle(command, "-it", "--rm", "--help").returncode == 0
    assert bottle(command, "-it", "--sh", "--help").returncode != 0


def test_every_exit_status_is_documented() -> None:
    text = (CHECKOUT / "docs" / "exit-statuses.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) ", text, re.MULTILINE)}
    leaves = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.BottleError)
    ]
    own = {each.exit_code for each in leaves if each is not errors.Interrupted}
    assert own - documented == set()
    assert {code for code in documented if 100 <= code <= 125} - own == set()


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: str) -> None:
    done = bottle("completion", shell)
    assert done.returncode == 0
    assert "_BOTTLE_COMPLETE" in done.stdout
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True, timeout=30)


def test_completion_completes() -> None:
    env = {"_BOTTLE_COMPLETE": "bash_complete", "COMP_WORDS": "bottle ru", "COMP_CWORD": "1"}
    done = subprocess.run(
        [Path(sys.executable).with_name("bottle")], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["plain,run"]


@pytest.mark.parametrize(("old", "new"), [("prove", "check"), ("scrub", "scan"), ("inspect", "show")])
def test_other_names_of_a_command_work_and_are_not_listed(old: str, new: str) -> None:
    group = main.bottle
    context = click.Context(group)
    assert group.get_command(context, old) is group.get_command(context, new)
    assert new in group.list_commands(context)
    assert old not in group.list_commands(context)


def test_a_mistyped_command_gets_a_suggestion() -> None:
    done = bottle("rnu")
    assert done.returncode == 2
    assert done.stderr == "bottle: no such command: 'rnu'\nNext: did you mean `bottle run`?\n"


def test_every_option_of_run_is_in_a_group() -> None:
    shown = bottle("run", "--help").stdout
    for group in GROUPS:
        assert f"{group} options:" in shown
    assert "Other options:\n  -h, --help" in shown
