"""Packages of the world's servers, a cache for them, and what a bottle gets of both."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tests.support.agents import in_world
from tests.support.bottle import Bottle
from tests.support.package_registry import HOST, PATHS, PackageRegistry
from tests.support.world import World

SOUND, POISON = b"the package " * 50_000, b"poison " * 50_000
_PLAIN = ("pkg/a.tgz", "pkg/b.tgz", "evil", "pool/a.deb")
CACHED = "--cache-packages=mirror"
CACHE = f"""
{HOST}:443 /pkg/[^/]+\\.tgz
{HOST}:443 {PATHS[0]}
{HOST}:80>443 /pool/.+\\.deb
"""
GET = f"""
curl -sS https://{HOST}/pkg/a.tgz | sha256sum
curl -sS http://{HOST}/pool/a.deb | sha256sum
"""
INSTALL = f"""
python3 -m pip install -q --no-cache-dir --no-index -f https://{HOST}/links.html --target=/tmp/new mine
sha256sum < /tmp/new/mine.dat
"""


def with_cache(bottle: Bottle, outside: World, folder: Path) -> Bottle:
    """Run `bottle` in that world with a cache `mirror`; the registry's files are sound."""
    outside.forget()
    caches = folder / "config" / "bot-bottle" / "caches"
    caches.mkdir(parents=True)
    (caches / "mirror.txt").write_text(CACHE)
    _serve(outside)
    changes = {"XDG_CONFIG_HOME": str(folder / "config"), "BOT_BOTTLE_STATE_DIR": str(folder / "state")}
    return in_world(replace(bottle, changes={**bottle.changes, **changes}), outside)


def _serve(outside: World) -> None:
    registry = PackageRegistry(f"https://{HOST}")
    registry.add("mine", SOUND)
    served = {path[1:]: data for path, (_, data) in registry.files.items() if path.endswith(".whl")}
    served |= {"links.html": registry.files["/simple/mine/"][1]}
    for name, data in {**dict.fromkeys(_PLAIN, SOUND), **served}.items():
        path = outside.folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def poison(outside: World) -> None:
    """Let the servers have other bytes as every package."""
    wheels = (outside.folder / "files").rglob("*.whl")
    for path in (*(outside.folder / "files" / name for name in _PLAIN), *wheels):
        path.write_bytes(POISON)


def sums(data: bytes, count: int) -> str:
    """Return what sha256sum says of so many packages with this content."""
    return f"{hashlib.sha256(data).hexdigest()}  -\n" * count


def downloaded(outside: World) -> list[tuple[str, int]]:
    """Return the packages that the servers were asked for, and at which port."""
    found = [(each["path"], each["port"]) for each in outside.seen() if "path" in each]
    return [each for each in found if each[0].startswith(("/pkg", "/pool", "/packages"))]
