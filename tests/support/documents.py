"""The Markdown files of the project: their links, headings and code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Link(NamedTuple):
    """A link of a document: its line, its text, and what it leads to."""

    line: int
    text: str
    target: str


def prose(document: Path) -> str:
    """Return a document with its code blocks blanked, so that line numbers stay."""
    return _FENCE.sub(lambda block: "\n" * block[0].count("\n"), document.read_text())


def links(document: Path) -> Iterator[Link]:
    """Yield every link of a document outside its code blocks."""
    text = prose(document)
    for found in _LINK.finditer(text):
        yield Link(text.count("\n", 0, found.start()) + 1, found[1], found[2])


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MkDocs make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(document))
    }


def code_blocks(document: Path) -> list[str]:
    """Return the contents of a document's code blocks."""
    return [block[0].split("\n", 1)[1].removesuffix("```") for block in _FENCE.finditer(document.read_text())]


def defined_names(module: Path) -> set[str]:
    """Return the functions, classes, methods and module variables that a module defines."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names
