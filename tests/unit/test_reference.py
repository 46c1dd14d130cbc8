"""What the documents say of statuses, settings, options, variables and messages is what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from tests.support.documents import CHECKOUT, DOCUMENTS, prose

from bot_bottle import errors
from bot_bottle.cli import main
from bot_bottle.config.settings import DEFAULTS

SOURCES = CHECKOUT / "src" / "bot_bottle"
DOCS = CHECKOUT / "docs"

# options of other programs that the documents name
FOREIGN = {"--network=none", "--label", "--pids-limit=4096"}

STATUSES_SAID = [  # a document, what it says, and the error that it speaks of
    ("backends.md", r"is refused \(exit status (\d+)\)", errors.WallsError),
    ("bottle-toml.md", r"exit status (\d+)", errors.TrustError),
    ("egress.md", r"status is (\d+)", errors.WallsError),
    ("fidelity.md", r"exit status (\d+)", errors.DifferenceError),
    ("secrets.md", r"before anything is built \(exit status (\d+)\)", errors.SecretError),
    ("secrets.md", r"exit status is (\d+)", errors.LeakError),
    ("security.md", r"status (\d+)", errors.WallsError),
    ("workspaces.md", r"\(exit status (\d+)\)", errors.ConflictError),
]


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
    assert str(kind.exit_code) in found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_status_in_a_document_exists(document: Path) -> None:
    known = {*reference.statuses(), *reference.OTHER_STATUSES, 0, 125, 137, 143}
    text = re.sub(r"[Ee]xit statuses 100 to 125|100 to 125", "", text_of(document))
    found = re.findall(r"status(?: is)? (\d+)\b|\((1\d\d)\)", text)
    assert {int(one or other) for one, other in found} <= known


# --- messages


def messages() -> list[tuple[str, int]]:
    """Every text of a module, `...` for what is put in, with each status that the module may end with."""
    codes = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BottleError)
    }
    found = []
    for module in SOURCES.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(module.read_text())))
        raised = {codes[node.id] for node in nodes if isinstance(node, ast.Name) and node.id in codes}
        texts = [text_in(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
        found += [(text, code) for text in texts for code in raised]
    return found


def text_in(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(text_in(each) if isinstance(each, ast.Constant) else "..." for each in node.values)


def test_troubleshooting_quotes_messages_with_their_status() -> None:
    raised = messages()
    assert len(raised) > 100
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
        if not any(code == status and message in text for text, code in raised)
    ]
    assert not wrong, "no such message is raised with this status:\n" + "\n".join(wrong)


# --- settings


def test_the_table_of_bottle_toml_is_that_of_the_model_and_the_options() -> None:
    rows = {row[0].strip("`[]"): row for row in rows_of(DOCS / "bottle-toml.md")[1:] if len(row) == 4}
    keys = {key.name: key for key in reference.setting_keys() if not key.name.startswith("secrets.")}
    assert rows.keys() == {*keys, "secrets.NAME"}
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
    assert keys["env"][1:4] == ("table of strings", "", "--env")
    assert keys["secrets.NAME.keychain"].kind == "string"


# --- options and variables


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
    listed = pages["commands/index.md"]
    for name in main.bottle.list_commands(click.Context(main.bottle)):
        assert f"commands/{name}.md" in pages
        assert f"[bottle {name}]({name}.md)" in listed


def test_tables_keep_their_columns() -> None:
    assert reference.table(["a", "b"], [["x|y", "z"]]) == "| a | b |\n| --- | --- |\n| x\\|y | z |\n"
