"""The shape of the source tree: imports go down the layers, modules stay small, importing does nothing."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TypeGuard

import pytest

from bot_bottle import errors

SOURCES = Path(__file__).parents[2] / "src" / "bot_bottle"
MODULES = sorted(SOURCES.rglob("*.py"))

# What is in a line imports from the lines above it only, and not from its neighbours in the line.
LAYERS = """
errors structs version
host tar
image secrets workspace
agent
config engine erofs rootfs smolmachine
cache registry verify vm
network scan
login
pack backend git
remote
bottle
cluster
api doctor
bench
cli
__main__
"""
RANK = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}


def place(module: Path) -> str:
    """Return the folder or the loose module at the top that a module belongs to."""
    return module.relative_to(SOURCES).parts[0].removesuffix(".py")


def imported(module: Path) -> set[str]:
    """Return the folders and loose modules that a module imports from, in its functions too."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bot_bottle"):
            rest = node.module.split(".")[1:]
            names |= {rest[0]} if rest else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bot_bottle.")
            }
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_imports_go_one_way(module: Path) -> None:
    own = place(module)
    if own == "__init__":
        return  # the public names, loaded when they are first used
    assert not {name for name in imported(module) - {own} if RANK[name] >= RANK[own]}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_modules_and_functions_stay_small(module: Path) -> None:
    text = module.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


def test_only_process_starts_programs() -> None:
    users = {
        str(module.relative_to(SOURCES)) for module in MODULES if "import subprocess" in module.read_text()
    }
    assert users == {"host/process.py", "bottle/detach.py"}  # the latter starts what is to outlive us


def test_only_the_engine_folder_calls_the_engine() -> None:
    """No other folder starts docker or podman, or writes a part of their command lines that has a verb."""
    found = set()
    for module in MODULES:
        if place(module) == "engine":
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if calls_the_engine(node):
                found.add(f"{module.relative_to(SOURCES)}:{node.lineno}")
    assert not found


def calls_the_engine(node: ast.AST) -> TypeGuard[ast.expr]:
    if isinstance(node, ast.Attribute) and node.attr == "program":
        return ast.unparse(node.value).rpartition(".")[2].strip("_") in ("engine", "containers")
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("find", "process.find", "shutil.which"):
        return "docker" in ast.unparse(node) or "podman" in ast.unparse(node)
    if isinstance(node, ast.List | ast.Tuple) and len(node.elts) > 1:
        words = [part.value if isinstance(part, ast.Constant) else None for part in node.elts[:2]]
        return words[0] in ("docker", "podman") and words[1] not in ("docker", "podman", "smolmachines")
    return isinstance(node, ast.Constant) and str(node.value).startswith("--format={{")


@pytest.mark.parametrize(
    "text",
    [
        "[str(self._engine.program), 'ps']",
        "str(engine.program)",
        "process.find('podman')",
        "run(['docker', 'info'])",
        "run([*start, '--format={{.Id}}'])",
    ],
)
def test_a_call_of_the_engine_is_seen(text: str) -> None:
    assert any(calls_the_engine(node) for node in ast.walk(ast.parse(text)))


def test_only_text_decides_what_a_terminal_may_be_shown() -> None:
    users = {
        str(module.relative_to(SOURCES))
        for module in MODULES
        if re.search(r"\bisprintable\b|unicode_escape", module.read_text())
    }
    assert users == {"host/text.py"}


def test_a_record_is_a_struct_where_it_can_be_one() -> None:
    """A dataclass takes Python thirty times as long to make, and each command loads many."""
    found = set()
    for module in MODULES:
        if "vm/direct/virtiofs" in str(module):
            continue  # its process has no other packages
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef) and is_needless_dataclass(node):
                found.add(f"{module.relative_to(SOURCES)}:{node.name}")
    assert not found


def is_needless_dataclass(node: ast.ClassDef) -> bool:
    decorated = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    return decorated and not re.search(r"\bfield\(.*\b(repr|compare)=False\b", ast.unparse(node))


@pytest.mark.parametrize(
    ("field", "expected"),
    [("x: int = 0", True), ("x: int = field(default=0)", True), ("x: int = field(repr=False)", False)],
)
def test_a_needless_dataclass_is_seen(field: str, expected: bool) -> None:
    [node] = ast.parse(f"@dataclass(frozen=True)\nclass A:\n    {field}").body
    assert isinstance(node, ast.ClassDef)
    assert is_needless_dataclass(node) is expected


def test_what_dataclasses_alone_have_is_not_used_on_records() -> None:
    """At run time these refuse a Struct, of which mypy does not know."""
    users = {
        str(module.relative_to(SOURCES))
        for module in MODULES
        if re.search(r"^ *from dataclasses import .*\b(replace|asdict|astuple)\b", module.read_text(), re.M)
    }
    assert users == {"structs.py"}


def test_importing_the_package_loads_nothing_of_it() -> None:
    program = "import bot_bottle, sys; print(sorted(m for m in sys.modules if m.startswith('bot_bottle.')))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


# what only some runs use, and what makes files that are in the cache from the second run on
LEFT_OUT = """
asyncio concurrent csv difflib importlib.metadata importlib.resources multiprocessing pydantic rich ssl
tarfile tomllib
bot_bottle.agent bot_bottle.backend.container bot_bottle.backend.microvm bot_bottle.bottle.agent_state
bot_bottle.bottle.lock bot_bottle.bottle.network bot_bottle.engine.bases bot_bottle.erofs.writer
bot_bottle.git.remotes bot_bottle.git.server_process bot_bottle.image.layers bot_bottle.login
bot_bottle.network.proposals bot_bottle.network.proxy bot_bottle.network.proxy_process bot_bottle.pack.native
bot_bottle.registry bot_bottle.remote bot_bottle.rootfs.flatten bot_bottle.scan bot_bottle.tar.reader
bot_bottle.verify bot_bottle.vm.direct.confine_helper bot_bottle.vm.direct.open_network
bot_bottle.vm.direct.passt bot_bottle.vm.direct.share bot_bottle.vm.smolvm
bot_bottle.workspace.clone bot_bottle.workspace.features bot_bottle.workspace.fetch
bot_bottle.network.caches bot_bottle.network.traffic
bot_bottle.workspace.lifecycle
"""


def test_a_run_does_not_load_what_it_does_not_use() -> None:
    run = ("bot_bottle.cli.commands.run", "bot_bottle.backend.direct.backend")
    program = f"import sys, {', '.join(run)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert {*done.stdout.split()} & {*LEFT_OUT.split()} == set()
    assert all(map(importlib.util.find_spec, LEFT_OUT.split()))  # there is such a module


def test_every_public_name_is_there() -> None:
    import bot_bottle

    for name in bot_bottle.__all__:
        assert getattr(bot_bottle, name).__doc__


def all_errors() -> list[type[errors.BottleError]]:
    found = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BottleError)
    ]
    assert len(found) > 10
    return found


def test_every_error_has_an_exit_status_of_its_own() -> None:
    codes = [kind.exit_code for kind in all_errors()]
    assert len(set(codes)) == len(codes)


def test_an_error_is_one_message_with_reason_and_next_step() -> None:
    error = errors.BuildError("it did not build", why="line 1\nline 2\n", next_step="mend it")
    assert str(error) == "it did not build\n  line 1\n  line 2\nNext: mend it"
