"""The words that docs/glossary.md asks to avoid, and where they are used."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.documents import CHECKOUT, DOCUMENTS, prose

SECTION = "## Words to avoid"

# as in the glossary: what is looked for
WORDS = {
    "told": r"\btold\b",
    "whoever": r"\bwhoever\b",
    "reckon": r"\breckon\w*",
    "stead": r"\bstead\b",
    "to be had": r"\bto be had\b",
    "once more": r"\bonce more\b",
    "the like": r"\bthe like\b",
    "names no": r"\bnames no\b",
    "holds no": r"\bholds no\b",
    "is no": r"(?<!\bthere )\b(?:is|are) no\b(?! longer| more than)",
    "came of it": r"\b(?:came|comes|what came) of (?:it|them|each)\b",
    "wall": r"\bwalls?\b",
    "door": r"\bdoors?\b",
    "gate": r"\bgates?\b",
    "stray": r"\bstrays?\b(?!\.jsonl)",
    "kit": r"\bkits?\b",
    "withheld": r"\bwithheld\b",
}
FIRST_WORDS = {
    "Give ...": {"Give"},
    "Tell ..., Let ..., Have ..., Hold ...": {"Tell", "Let", "Have", "Hold"},
    "Whether ..., What ..., Where ..., How ...": {"Whether", "What", "Where", "How"},
}
_OF_FUNCTIONS = FIRST_WORDS["Whether ..., What ..., Where ..., How ..."]  # a class or property may begin so
_PATTERN = re.compile("|".join(WORDS.values()), re.IGNORECASE)


class Use(NamedTuple):
    """One use of a word to avoid."""

    line: int
    word: str


def files() -> list[Path]:
    """Return the files in which the words are looked for."""
    return [*DOCUMENTS, *sorted((CHECKOUT / "src").rglob("*.py"))]


def uses(path: Path) -> list[Use]:
    """Return the uses in a document, or in the strings and comments of a module."""
    return sorted(_of_module(path) if path.suffix == ".py" else _of_document(path))


def _of_document(path: Path) -> Iterator[Use]:
    text = re.sub(r"`[^`\n]*`", "", prose(path))  # options and messages are quoted as they are
    if path.name == "glossary.md":
        text = text.partition(SECTION)[0]
    yield from _found(text, 1)


def _of_module(path: Path) -> Iterator[Use]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield from _found(token.string, token.start[0])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _found(node.value, node.lineno)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first = (ast.get_docstring(node) or "").split(" ", 1)[0]
            if first in set().union(*FIRST_WORDS.values()) - (set() if _is_plain(node) else _OF_FUNCTIONS):
                yield Use(getattr(node, "lineno", 1), f"{first} ...")


def _is_plain(node: ast.AST) -> bool:
    """Return whether it is a function, and not a property."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return not {"property", "cached_property"} & {ast.unparse(each) for each in node.decorator_list}


def _found(text: str, line: int) -> Iterator[Use]:
    for match in _PATTERN.finditer(text):
        yield Use(line + text.count("\n", 0, match.start()), match[0])
