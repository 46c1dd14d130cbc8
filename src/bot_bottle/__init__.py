"""bot-bottle: a repository's Dockerfile to a command running inside a microVM made from it."""

from __future__ import annotations

__version__ = "0.1.0"
