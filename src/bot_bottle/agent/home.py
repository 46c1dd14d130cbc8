"""The home of an agent in a bottle. Every run reads this module, so it imports nothing."""

from __future__ import annotations

HAVE_HOME = """\
if [ -z "${HOME:-}" ] || ! [ -d "$HOME" ] || ! [ -w "$HOME" ]; then
    HOME=/tmp/bottle-home
    export HOME
    mkdir -p "$HOME"
fi
"""
"""Lines of a shell script by which HOME is a folder that an agent can write to."""
