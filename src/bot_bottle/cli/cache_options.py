"""The options for caches of packages."""

from __future__ import annotations

import click

from bot_bottle.cli.complete_entries import complete_caches

CACHE_OPTIONS = (
    click.option(
        "--cache-packages",
        multiple=True,
        envvar="BOT_BOTTLE_CACHE_PACKAGES",
        metavar="NAME[,NAME]",
        shell_complete=complete_caches,
        help="Share downloaded packages of npm, pypi, crates, go or debian between bottles, where "
        "their hosts are allowed.",
    ),
    click.option(
        "--no-cache-packages",
        is_flag=True,
        help="Use no cache of packages, overriding bottle.toml and the environment.",
    ),
)
