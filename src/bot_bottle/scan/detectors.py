"""The detectors of the library `detect-secrets`, applied to text of any form. Only `bottle scan` imports it.

Every text is searched for tokens. A word such as `password` before a value is only significant in
configuration files, which are recognized by their path.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, islice

from detect_secrets.core.scan import scan_line
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.settings import get_plugins, transient_settings

_TOKENS = (
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
_WORDS = (
    "ArtifactoryDetector",
    "CloudantDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "KeywordDetector",
    "SoftlayerDetector",
)
# placeholders: ${TOKEN}, <password>, aaaa, abcdef
_FILTERS = (
    "is_indirect_reference",
    "is_likely_id_string",
    "is_not_alphanumeric_string",
    "is_prefixed_with_dollar_sign",
    "is_sequential_string",
    "is_templated_secret",
)
# keys that agents often have, and the library does not detect
_MORE = {
    "Anthropic API Key": re.compile(r"sk-ant-[a-z0-9]{3,12}-[\w-]{40,}"),
    "GitHub Token": re.compile(r"github_pat_\w{50,}"),
    "Google API Key": re.compile(r"AIza[\w-]{35}"),
    "OpenAI Token": re.compile(r"sk-(?:proj|svcacct|admin)-[\w-]{40,}"),
}

_LINE = 4096  # characters of a line that are searched together; patterns take quadratic time at worst
_OVERLAP = 512
_JUDGED = 10_000  # lines of one text that all detectors search
_AFTER_HEADER = re.compile(r"-*\s*(?:\\r|\\n|\s)*[A-Za-z0-9+/=:, -]{16,}")

_SETTINGS = re.compile(
    r"(?i)(.*/)?([^/]*\.(cfg|conf|env|ini|json|properties|tfvars|toml|ya?ml)|\.env[^/]*|\.[a-z]+rc|config)"
)
# files of packages, which are the same for everybody
_PACKAGED = re.compile(
    r"usr/(?!local/etc/|src/app/)|(lib|bin|sbin|var/lib/(dpkg|apt|rpm)|etc/(ssl|ca-certificates|pam\.d))/"
    r"|(.*/)?(node_modules|site-packages|dist-packages|vendor)/"
)
# common in the documentation of packages
_MADE_UP = frozenset({"Basic Auth Credentials", "JSON Web Token"})


@contextmanager
def rules() -> Iterator[None]:
    """Enable the detectors until the block ends."""
    plugins = [{"name": name} for name in (*_TOKENS, *_WORDS)]
    filters = [{"path": f"detect_secrets.filters.heuristic.{name}"} for name in _FILTERS]
    with transient_settings({"plugins_used": plugins, "filters_used": filters}):
        yield


def is_settings(path: str) -> bool:
    """Return whether a path (without a first slash) is one of a configuration file outside of packages."""
    return bool(_SETTINGS.fullmatch(path)) and not _PACKAGED.match(path)


def in_text(path: str, text: str, *, settings: bool) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and kind of each line that looks like a secret. Needs `rules`."""
    pieces = [(number, piece) for number, piece in _pieces(text) if piece.strip()]
    places = range(len(pieces)) if settings else _candidates([piece for _, piece in pieces])
    seen: set[tuple[int, str]] = set()
    for place in islice(places, _JUDGED):
        number, piece = pieces[place]
        following = pieces[place + 1][1] if place + 1 < len(pieces) else ""
        for kind in _kinds(piece, following):
            if (number, kind) in seen or (kind in _MADE_UP and _PACKAGED.match(path)):
                continue
            seen.add((number, kind))
            yield number, kind


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        for start in range(0, max(1, len(line)), _LINE - _OVERLAP):
            yield number, line[start : start + _LINE]


def _candidates(lines: list[str]) -> list[int]:
    """Return the lines in which something has the form of a token. Most texts have none."""
    text = "\n".join(lines)
    patterns = [*_MORE.values()]
    for plugin in get_plugins():
        if isinstance(plugin, RegexBasedDetector) and type(plugin).__name__ in _TOKENS:
            patterns += plugin.denylist
    ends = list(accumulate(len(line) + 1 for line in lines))
    return sorted(
        {bisect_right(ends, each.start()) for pattern in patterns for each in pattern.finditer(text)}
    )


def _kinds(line: str, following: str) -> Iterator[str]:
    yield from (kind for kind, pattern in _MORE.items() if pattern.search(line))
    for secret in scan_line(line):
        if secret.type != "Private Key" or _has_key(line, following):
            yield secret.type


def _has_key(line: str, following: str) -> bool:
    """Return whether a key follows its header: programs that read keys contain the header alone."""
    after = re.split(r"PRIVATE KEY|PuTTY-User-Key-File-2|SSH2 ENCRYPTED", line, maxsplit=1)[-1]
    return bool(_AFTER_HEADER.match(f"{after}\n{following}"))
