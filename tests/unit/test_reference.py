"""What the documents say of statuses, settings, options, variables and messages is what the code does."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from tests.support.documents import CHECKOUT, DOCUMENTS, code_blocks, prose

from bot_bottle import errors
from bot_bottle.bottle.spec import DEFAULT_CPUS
from bot_bottle.cli import main
from bot_bottle.config.settings import DEFAULTS
from bot_bottle.pack.options import MAX_IMAGE_SIZE, parse_image_size

SOURCES = CHECKOUT / "src" / "bot_bottle"
DOCS = CHECKOUT / "docs"

# options of other programs that the documents name
FOREIGN = {"--network=none", "--label", "--pids-limit=4096", "--tar=f", "--continue", "--resume", "--last"}

STATUSES_SAID = [  # a document, what it says, and the error that it speaks of
    ("backends.md", r"is refused \(exit status (\d+)\)", errors.WallsError),
    ("backends.md", r"nothing starts \(exit status (\d+)\)", errors.WallsError),
    ("bottle-toml.md", r"exit status (\d+)", errors.TrustError),
    ("egress.md", r"status is (\d+)", errors.WallsError),
    ("fidelity.md", r"exit status (\d+)", errors.DifferenceError),
    ("secrets.md", r"before anything is built \(exit status (\d+)\)", errors.SecretError),
    ("secrets.md", r"exit status is (\d+)", errors.LeakError),
    ("security.md", r"status (\d+)", errors.WallsError),
    ("shared-cache.md", r"exit status (\d+)", errors.UntrustedError),
    ("shared-cache.md", r"exit status is (\d+)", errors.LeakError),
    ("workspaces.md", r"(?:\(exit status |\()(\d+)\)", errors.ConflictError),
]

# whose statuses are in tables that have tests of their own, or of earlier versions
TABLES_OF_STATUSES = {"exit-statuses.md", "troubleshooting.md", "CHANGELOG.md"}

DEFAULTS_SAID = [  # a document, what it says of a default, and the setting
    ("backends.md", r"A bottle is (a microVM) by default", "backend"),
    ("workspaces.md", r"`(\w+)` \(the default\)", "workspace"),
    ("workspaces.md", r"By default, (nothing):", "workspace"),
]
DEFAULT_WORDS = {"a microVM": "smolmachines", "nothing": "none"}

OPTIONS_SAID = [  # a document, what it says of an option's default, the command and the option
    ("registry.md", r"`(\w+)` \(default\)", ("registry",), "form"),
]

FIGURES_SAID = [  # a document, a figure in it, where that is in the code, and how much one of it is
    ("backends.md", r"(\d+) processes", "backend.container.commands.PIDS", 1),
    ("fidelity.md", r"longer than (\d+) bytes", "rootfs.smolvm_compat.LONGEST_PATH", 1),
    ("many-at-once.md", r"beyond (\d+) MiB", "bottle.logs.MOST", 1 << 20),
    ("many-at-once.md", r"last (\d+) receipts", "bottle.records.KEEP", 1),
    ("many-at-once.md", r"([\d.]+) GiB\smore", "vm.emulated.host.OWN_MEMORY_MIB", 1 << 10),
    ("many-at-once.md", r"(\d+) MiB more where", "backend.direct.backend.OWN_MEMORY_MIB", 1),
    ("registry.md", r"at most (\d+) GiB", "registry.blob_cache.LIMIT", 1 << 30),
    ("secrets.md", r"text of at most (\d+) KiB", "secrets.reference.LARGEST", 1 << 10),
    ("secrets.md", r"first (\d+) MiB", "scan.scan.LARGEST", 1 << 20),
    ("security.md", r"(\d+) processes", "backend.container.commands.PIDS", 1),
]

KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.BottleError)
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


reference = load("reference")


def text_of(document: Path) -> str:
    """A document's text on one line, as its lines may be filled otherwise."""
    return " ".join(prose(document).split())


def rows_of(document: Path) -> list[list[str]]:
    """The rows of a document's tables."""
    lines = [line for line in prose(document).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- exit statuses


def test_exit_statuses_are_those_of_the_errors_with_their_words() -> None:
    wanted = {
        str(code): text.removesuffix(".")
        for code, text in {**reference.statuses(), **reference.OTHER_STATUSES}.items()
        if code != errors.Interrupted.exit_code
    }
    rows = {row[0]: row[1] for row in rows_of(DOCS / "exit-statuses.md") if row[0].isdigit()}
    missing = [f"| {code} | {text} |" for code, text in wanted.items() if rows.get(code) != text]
    assert not missing, "docs/exit-statuses.md lacks:\n" + "\n".join(missing)
    assert rows.keys() == wanted.keys()


@pytest.mark.parametrize(("document", "pattern", "kind"), STATUSES_SAID)
def test_statuses_in_the_text_are_those_of_the_error(
    document: str, pattern: str, kind: type[errors.BottleError]
) -> None:
    found = re.findall(pattern, text_of(DOCS / document))
    assert found
    assert {int(each) for each in found} == {kind.exit_code}


@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if each.name not in TABLES_OF_STATUSES],
    ids=lambda path: path.name,
)
def test_every_status_in_the_text_is_compared_with_an_error(document: Path) -> None:
    text = re.sub(r"statuses 99 to 125|below 99 and above 125", "", text_of(document))
    said = {int(each) for each in re.findall(r"\b(?:status(?:es)?(?: is| are)? |\()(1[0-2]\d)\b", text)}
    assert said == {kind.exit_code for name, _, kind in STATUSES_SAID if name == document.name}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_status_in_a_document_exists(document: Path) -> None:
    known = {*reference.statuses(), *reference.OTHER_STATUSES, 0, 125, 137, 143}
    text = re.sub(r"[Ee]xit statuses 99 to 125|99 to 125", "", text_of(document))
    found = re.findall(r"status(?: is)? (\d+)\b|\((1\d\d)\)", text)
    assert {int(one or other) for one, other in found} <= known


# --- messages


@functools.cache
def texts() -> list[tuple[Path, str]]:
    """Every text of every module, with `...` for what is put into it."""
    return list(_texts())


def _texts() -> Iterator[tuple[Path, str]]:
    for module in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            ):
                yield module, text_in(node)


def statuses_of(module: Path) -> set[int]:
    """The statuses of the errors that a module names."""
    names = {node.id for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Name)}
    return {kind.exit_code for name, kind in KINDS.items() if name in names}


def text_in(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(text_in(each) if isinstance(each, ast.Constant) else "..." for each in node.values)


def test_troubleshooting_quotes_messages_with_their_status() -> None:
    said = texts()
    statuses = {module: statuses_of(module) for module in {module for module, _ in said}}
    quoted = [
        (message, int(status))
        for first, *_ in rows_of(DOCS / "troubleshooting.md")
        for status in re.findall(r"\((\d+)\)", first)
        for message in re.findall(r"`([^`]+)`", first)[:1]
    ]
    assert len(quoted) > 5
    wrong = [
        f"{message} ({status})"
        for message, status in quoted
        if not any(message in text and status in statuses[module] for module, text in said)
    ]
    assert not wrong, "no such message is raised with this status:\n" + "\n".join(wrong)


def shown(document: Path, start: str) -> str:
    """The one line of a document's code blocks that begins so."""
    lines = [line for block in code_blocks(document) for line in block.splitlines()]
    [found] = [line for line in lines if line.startswith(start)]
    return found


def test_documents_show_the_columns_of_bottle_ls() -> None:
    printed = CliRunner().invoke(main.bottle, ["ls"]).output.splitlines()[0]
    assert shown(DOCS / "many-at-once.md", "NAME                     STATE") == printed


def is_of(line: str, text: str) -> bool:
    """Whether a line is a text of the code, with something put in for each `...`."""
    first, *rest = text.split("...")
    if not line.startswith(first) or (not rest and line != first):
        return False
    position = len(first)
    for piece in rest:
        position = line.find(piece, position)
        if position < 0:
            return False
        position += len(piece)
    return not rest or line.endswith(rest[-1])


def test_the_demo_in_the_readme_prints_what_the_code_says() -> None:
    blocks = code_blocks(CHECKOUT / "README.md")
    [demo] = [block for block in blocks if "$ bottle run examples/hello" in block]
    said = re.findall(r"^(?:build|export|system|root|boot) +(?:\.\.\. )?[\d.]+ s  (.+)$", demo, re.MULTILINE)
    said += [line for line in demo.splitlines() if "KVM" in line]
    assert len(said) > 4
    whole = [text for _, text in texts() if not text.startswith("...")]
    old = [line for line in said if not any(is_of(line, text) for text in whole)]
    assert not old, "no longer printed; run make demo and show what it prints:\n" + "\n".join(old)


def test_files_of_the_run_folder_that_contributing_names_are_those_that_the_code_makes() -> None:
    rows = [row[0] for row in rows_of(CHECKOUT / "CONTRIBUTING.md") if ".log" in row[0] or ".jsonl" in row[0]]
    named = {name.rpartition("/")[2] for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert len(named) >= 5
    assert not {name for name in named if not any(name in text for _, text in texts())}


# --- figures


@pytest.mark.parametrize(("document", "pattern", "constant", "unit"), FIGURES_SAID)
def test_figures_in_the_text_are_those_of_the_code(
    document: str, pattern: str, constant: str, unit: int
) -> None:
    module, _, name = constant.rpartition(".")
    value = getattr(importlib.import_module(f"bot_bottle.{module}"), name)
    found = re.findall(pattern, text_of(DOCS / document))
    assert found
    assert {float(each) * unit for each in found} == {value}


def test_the_largest_image_is_said_in_troubleshooting() -> None:
    [found] = re.findall(r"more than (\d+) GiB", text_of(DOCS / "troubleshooting.md"))
    assert parse_image_size(MAX_IMAGE_SIZE) == int(found) << 30


# --- settings


def test_the_table_of_bottle_toml_is_that_of_the_model_and_the_options() -> None:
    rows = {row[0].strip("`[]"): row for row in rows_of(DOCS / "bottle-toml.md")[1:] if len(row) == 4}
    secrets = ("secrets.", "image.secrets.")
    keys = {key.name: key for key in reference.setting_keys() if not key.name.startswith(secrets)}
    assert rows.keys() == {*keys, *(f"{key}NAME" for key in secrets)}
    for name, key in keys.items():
        _, meaning, option, variable = rows[name]
        if option not in ("PATH", "after `--`", "`--image`", "`--network open`"):
            assert option.strip("`") == key.option, name
        assert variable.strip("`") == key.variable, name
        said = re.findall(r'"?`?"?([\w]+)"?`?(?:, a \w+)? \(the default\)', meaning)
        assert said == ([DEFAULTS[name]] if name in ("backend", "workspace") else said), name


def test_every_key_and_option_has_a_meaning() -> None:
    assert not [key.name for key in reference.setting_keys() if not key.meaning]


def test_settings_have_defaults_options_and_variables() -> None:
    keys = {key.name: key for key in reference.setting_keys()}
    assert keys["memory"][1:5] == ("string", f'`"{DEFAULTS["memory"]}"`', "--memory", "BOT_BOTTLE_MEMORY")
    assert keys["egress.allow"][1:5] == ("list of strings", "", "--allow", "")
    assert keys["egress.host_ports"][1:5] == ("list of integers", "", "--allow-host-port", "")
    assert keys["env"][1:4] == ("table of strings", "", "--env")
    assert keys["secrets.NAME.keychain"].kind == "string"


@pytest.mark.parametrize(("document", "pattern", "key"), DEFAULTS_SAID)
def test_defaults_in_the_text_are_those_of_the_settings(document: str, pattern: str, key: str) -> None:
    [said] = re.findall(pattern, text_of(DOCS / document))
    assert DEFAULT_WORDS.get(said, said) == DEFAULTS[key]


def test_the_settings_that_are_shown_as_defaults_are_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [line.split() for block in code_blocks(DOCS / "bottle-toml.md") for line in block.splitlines()]
    said = {row[0]: row[1] for row in shown if len(row) == 3 and row[2] == "default" and row[1][0] != "/"}
    assert len(said) > 3
    printed = CliRunner().invoke(main.bottle, ["config"]).output.splitlines()
    found = {row[0]: row[1] for row in map(str.split, printed) if row[-1] == "default"}
    assert said.items() <= found.items()


# --- options and variables


@pytest.mark.parametrize(("document", "pattern", "command", "option"), OPTIONS_SAID)
def test_defaults_in_the_text_are_those_of_the_options(
    document: str, pattern: str, command: tuple[str, ...], option: str
) -> None:
    [said] = re.findall(pattern, text_of(DOCS / document))
    [found] = [each for each in reference.options_of(*command) if each.name == option]
    assert said == found.default


def test_defaults_in_the_help_are_those_of_the_code() -> None:
    helps = {option.name: option.help or "" for option in reference.options_of("run")}
    assert re.findall(r"default: (\w+)", helps["memory"]) == [DEFAULTS["memory"]]
    assert re.findall(r"up to (\d+)", helps["cpus"]) == [str(DEFAULT_CPUS)]
    [row] = [row for row in rows_of(DOCS / "bottle-toml.md") if row[0] == "`memory`"]
    assert re.findall(r"default: `\"(\w+)\"`", row[1]) == [DEFAULTS["memory"]]
    [row] = [row for row in rows_of(DOCS / "bottle-toml.md") if row[0] == "`cpus`"]
    assert re.findall(r"up to (\d+)", row[1]) == [str(DEFAULT_CPUS)]


def options() -> set[str]:
    found = set()
    for _, command in reference.tree(main.bottle):
        for option in command.params:
            if isinstance(option, click.Option):
                found |= {*option.opts, *option.secondary_opts}
    return found | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_documents_exist(document: Path) -> None:
    known = options()
    named = {
        option
        for code in re.findall(r"`([^`]+)`", prose(document))
        if code.startswith(("-", "bottle ", "run ", "pack "))
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*(?:=\w+)?", code)
    }
    assert named - known - FOREIGN == set()


def test_variables_are_listed_in_one_place() -> None:
    listed = {*reference.option_variables()}
    for group in (reference.environment.READ, reference.environment.SET, reference.environment.INTERNAL):
        assert not listed & group.keys()
        listed |= group.keys()
    used = set()
    for module in SOURCES.rglob("*.py"):
        if module != SOURCES / "config" / "environment.py":
            used |= set(re.findall(r"BOT_BOTTLE_[A-Z0-9_]*[A-Z0-9]", module.read_text()))
    assert used == listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_variables_in_documents_exist(document: Path) -> None:
    listed = {*reference.option_variables(), *reference.environment.READ, *reference.environment.SET}
    named = set(re.findall(r"BOT_BOTTLE_[A-Z0-9_]*[A-Z0-9]", document.read_text()))
    assert {name for name in named if not re.fullmatch(r"BOT_BOTTLE_REF\d", name)} <= listed


# --- the pages of the site


def test_every_command_has_a_page_with_its_help() -> None:
    pages = reference.pages()
    assert "# bottle run\n\n```text\nUsage: bottle run " in pages["commands/run.md"]
    assert "## bottle cache prune\n\n```text\nUsage: bottle cache prune " in pages["commands/cache.md"]
    assert "# bottle show\n\nOther names: `bottle inspect`.\n" in pages["commands/show.md"]
    listed = pages["commands/index.md"]
    for name in main.bottle.list_commands(click.Context(main.bottle)):
        assert f"commands/{name}.md" in pages
        assert f"[bottle {name}]({name}.md)" in listed


def test_tables_keep_their_columns() -> None:
    assert reference.table(["a", "b"], [["x|y", "z"]]) == "| a | b |\n| --- | --- |\n| x\\|y | z |\n"
