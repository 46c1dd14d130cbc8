"""The result of a comparison: equal differences are counted together, with a few examples of each."""

from __future__ import annotations

from msgspec import Struct, field

from bot_bottle.host.text import printable

_EXAMPLES = 20
_TEXT_LIMIT = 300


class Example(Struct, frozen=True):
    """One difference: its path, and what the image and the artifact have there."""

    path: str
    image: str = ""
    artifact: str = ""


class Finding(Struct):
    """Differences of one kind. `expected` ones follow from how smolvm unpacks; `why` explains it."""

    what: str
    why: str
    expected: bool
    count: int = 0
    examples: list[Example] = field(default_factory=list)


class Findings:
    """Collects differences in bounded space."""

    def __init__(self) -> None:
        self._found: dict[tuple[bool, str, str], Finding] = {}

    def expected(
        self, what: str, why: str, path: bytes | str, image: object = "", artifact: object = ""
    ) -> None:
        """Add a difference that smolvm's way of unpacking explains."""
        self._add(Finding(what, why, expected=True), path, image, artifact)

    def unexpected(
        self, what: str, why: str, path: bytes | str, image: object = "", artifact: object = ""
    ) -> None:
        """Add a difference that should not exist."""
        self._add(Finding(what, why, expected=False), path, image, artifact)

    def all(self) -> tuple[Finding, ...]:
        """Return the findings, the unexpected first."""
        return tuple(self._found[key] for key in sorted(self._found))

    def _add(self, new: Finding, path: bytes | str, image: object, artifact: object) -> None:
        finding = self._found.setdefault((new.expected, new.what, new.why), new)
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(Example(shown_path(path), _shown(image), _shown(artifact)))


def shown_path(path: bytes | str) -> str:
    """Return a path, or the name of a setting, on one line."""
    return path if isinstance(path, str) else "/" + _shown(path)


def _shown(value: object) -> str:
    return printable(value if isinstance(value, bytes) else str(value), limit=_TEXT_LIMIT)
