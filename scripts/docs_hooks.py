"""Hooks of MkDocs (mkdocs.yml): pages from outside the folder of documents, and links to sources.

README, CONTRIBUTING and others at the top of the checkout become pages, as do the reference pages. A link to
a source file leads to a copy of it in the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parents[1]
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "LICENSE": "license.md",
}

_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and the sources that pages link to."""
    for name, page in TOP.items():
        text = (CHECKOUT / name).read_text()
        if name == "LICENSE":
            text = f"# License\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=text))
    for name, text in reference.pages().items():
        files.append(File.generated(config, name, content=text))
    for target in sorted(set(_sources(files))):
        path = f"source/{target}"
        level = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, path, abs_src_path=str(CHECKOUT / target), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Make the links of a page lead to pages of the site."""
    own = page.file.src_uri

    def replace(link: re.Match[str]) -> str:
        found = _in_site(_in_checkout(own, link[2]))
        return link[1] + (posixpath.relpath(found, posixpath.dirname(own)) if found else link[2])

    return "".join(
        part if part.startswith("```") else _LINK.sub(replace, part) for part in _FENCED.split(markdown)
    )


def _sources(files: Files) -> list[str]:
    """Return the files of the checkout outside the documents that the documents link to."""
    targets = [
        _in_checkout(file.src_uri, link[1])
        for file in files.documentation_pages()
        for link in _LINK.findall(file.content_string)
    ]
    found = [_in_site(target) for target in targets]
    return [each.removeprefix("source/") for each in found if each and each.startswith("source/")]


def _in_checkout(page: str, target: str) -> str:
    """Return the path in the checkout that a link of a page means."""
    for name, at_top in TOP.items():
        if page == at_top:
            return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))


def _in_site(path: str) -> str | None:
    """Return the page or file of the site for a path in the checkout; None for what is not in it."""
    if path in TOP:
        return TOP[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    found = CHECKOUT / path
    if found.is_dir():  # a package is shown by what it says of itself
        return f"source/{path}/__init__.py" if (found / "__init__.py").exists() else None
    return f"source/{path}" if found.is_file() else None
