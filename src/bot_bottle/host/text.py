"""Text from outside made safe for a terminal: names of files, output of programs, entries of configuration.

A control character in it may move the cursor, change colours, or hide and reorder what follows. Every
character that Python does not count as printable (Unicode categories Other and Separator, but for the space)
is shown as its escape.
"""

from __future__ import annotations


def printable(text: str | bytes, *, limit: int | None = None, keep: str = "") -> str:
    r"""Return text on one line, with escapes such as `\x1b` and `\u202e` for what is not printable.

    Bytes that are not UTF-8 (in `str`: the surrogates of os.fsdecode) are shown as `\xff`. At most `limit`
    characters of the text are shown, followed by `...` if there are more; those in `keep` are left as they
    are.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if limit is not None and len(text) > limit:
        return printable(text[:limit], keep=keep) + "..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def printable_lines(text: str | bytes) -> str:
    """Return text as `printable` does, with its line breaks and tabs."""
    return printable(text, keep="\n\t")


def is_printable(text: str) -> bool:
    """Return whether `printable` would leave the text as it is."""
    return text.isprintable()


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
