"""Messages, docstrings, comments and documents use the field's words and plain English (docs/glossary.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support import words
from tests.support.documents import CHECKOUT


@pytest.mark.parametrize("path", words.files(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_file_uses_a_word_to_avoid(path: Path) -> None:
    name = path.relative_to(CHECKOUT)
    listed = "\n".join(f"{name}:{line}: {word}" for line, word in words.uses(path))
    assert not listed, f"docs/glossary.md says what to write instead:\n{listed}"


def test_the_glossary_lists_every_word_to_avoid() -> None:
    section = (CHECKOUT / "docs" / "glossary.md").read_text().partition(words.SECTION)[2]
    rows = re.findall(r"^\| (.+?) \| .+ \|$", section, re.MULTILINE)
    assert rows == ["avoid", *words.WORDS, *words.FIRST_WORDS]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nobody is told of it", ["told"]),
        ("what is no archive", ["is no"]),
        ("there is no archive", []),
        ("it is no longer there", []),
        ("it is read instead", []),
        ("in its stead", ["stead"]),
        ("Walls are wallpaper", ["Walls"]),
        ("`bottle --wall`", []),
        ("a toolkit, not a kit", ["kit"]),
    ],
)
def test_words_are_found_in_documents(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}\n\n```\ntold\n```\n")
    assert words.uses(tmp_path / "page.md") == [(3, word) for word in found]


def test_words_are_found_in_modules_in_strings_and_comments_and_not_in_names(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        '"""Give what\nis told."""\ntold = f"once more {told}"  # of a gate\n\ndef door():\n    "Hold it."\n'
    )
    found = words.uses(tmp_path / "module.py")
    assert found == [(1, "Give ..."), (2, "told"), (3, "gate"), (3, "once more"), (5, "Hold ...")]


def test_docstrings_of_functions_begin_with_a_verb_and_those_of_properties_need_not(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        'class Box:\n    "What it is."\n    @property\n    def full(self):\n        "Whether it is full."\n'
        '    def empty(self):\n        "Whether it is empty."\n'
    )
    assert words.uses(tmp_path / "module.py") == [(6, "Whether ...")]
