"""The documents agree with the tree: links lead somewhere, named functions are where they link to."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from tests.support.documents import CHECKOUT, DOCUMENTS, anchors, code_blocks, defined_names, links
from tests.unit.test_architecture import LAYERS

ARCHITECTURE = CHECKOUT / "docs" / "architecture.md"
SOURCES = CHECKOUT / "src" / "bot_bottle"


def relative(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    broken = []
    for line, _, target in links(document):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(f"{relative(document)}:{line}: {target}")
    assert not broken, "links that lead nowhere:\n" + "\n".join(broken)


def test_named_functions_are_in_the_files_they_link_to() -> None:
    missing = []
    for line, text, target in links(ARCHITECTURE):
        name = text.strip("`").split(".")[-1]
        if not target.endswith(".py") or text.endswith((".py`", "/`")) or not text.startswith("`"):
            continue
        module = (ARCHITECTURE.parent / target).resolve()
        if not module.exists():
            missing.append(f"{relative(ARCHITECTURE)}:{line}: there is no file {relative(module)}")
            continue
        names = defined_names(module)
        if name not in names and name != module.parent.name:
            near = difflib.get_close_matches(name, names, 3, 0.4) or sorted(names)
            missing.append(
                f"{relative(ARCHITECTURE)}:{line}: {relative(module)} has no {name}; "
                f"if it was renamed, name the new one: {', '.join(near)}"
            )
    assert not missing, "\n".join(missing)


def test_architecture_names_every_folder_of_the_source_tree() -> None:
    targets = {(ARCHITECTURE.parent / target).resolve() for _, _, target in links(ARCHITECTURE)}
    folders = {path.parent for path in SOURCES.glob("*/__init__.py")}
    loose = {path for path in SOURCES.glob("*.py") if path.stem != "__main__"}
    assert not [relative(path) for path in sorted(folders | loose) if path not in targets]


def test_architecture_shows_the_layers_that_the_test_holds() -> None:
    assert LAYERS.strip() in [block.strip() for block in code_blocks(ARCHITECTURE)]
