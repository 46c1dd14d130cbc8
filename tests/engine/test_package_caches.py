"""Bottles share downloaded packages, and none of them can change what the next one gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bottle import Bottle, Ended
from tests.support.cached_packages import CACHED, GET, POISON, SOUND, downloaded, poison, sums, with_cache
from tests.support.engines import Docker
from tests.support.escapes import client_context
from tests.support.world import World

HOSTILE = r"""
url=https://api.example.org/pkg/a.tgz
for try in '-X PUT -d poison' '-X POST -d poison' '-H Range:bytes=0-3' \
    '-H X-Forwarded-Host:other.example.org' '-H Host:other.example.org' \
    '-H X-HTTP-Method-Override:PUT' '-d poison -X GET'; do
  curl -sS -o /dev/null $try $url
done
curl -sS -o /dev/null -H 'Host: api.example.org' https://other.example.org/pkg/b.tgz
curl -sS -o /dev/null --resolve api.example.org:443:9.9.9.20 https://api.example.org/pkg/b.tgz
curl -sS -o /dev/null --path-as-is https://api.example.org/evil/../pkg/c.tgz
curl -sS -o /dev/null --path-as-is https://api.example.org/pkg/%2e%2e/evil
curl -sS -H 'Cache-Control: no-cache' $url | sha256sum
find / -name '*.partial' -o -path '*bot-bottle/packages*' 2> /dev/null
"""


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory, outside: World) -> str:
    """An image with curl."""
    return docker.build(client_context(tmp_path_factory.mktemp("client"), outside.folder / "cert.pem"))


@pytest.fixture
def there(bottle: Bottle, outside: World, tmp_path: Path) -> Iterator[Bottle]:
    """Run `bottle` in that world with a cache."""
    yield with_cache(bottle, outside, tmp_path)
    assert not bottle.leftovers


def run(there: Bottle, image: str, script: str, *options: str) -> Ended:
    allow = ("--allow=api.example.org", "--allow=other.example.org")
    return there(
        "run", "-q", "--backend=docker", *allow, *options, "--image", image, "--", "sh", "-c", script
    )


def test_a_package_is_downloaded_once_and_a_hostile_bottle_cannot_change_it(
    there: Bottle, image: str, outside: World
) -> None:
    first = run(there, image, GET, CACHED, "--name=one")
    assert (first.code, first.out) == (0, sums(SOUND, 2)), first
    assert downloaded(outside) == [("/pkg/a.tgz", 443), ("/pool/a.deb", 443)]  # both with TLS
    second = run(there, image, HOSTILE, CACHED, "--name=two")
    assert second.out == sums(SOUND, 1), second
    poison(outside)  # whatever comes from outside from now on is seen
    outside.forget()
    third = run(there, image, GET, CACHED, "--name=three")
    assert (third.code, third.out) == (0, sums(SOUND, 2)), third
    assert downloaded(outside) == []
    log = map(json.loads, there("logs", "--egress", "--all", "--json", "three").out.splitlines())
    assert [(each["path"], each["cached"]) for each in log] == [("/pkg/a.tgz", True), ("/pool/a.deb", True)]
    shown = there("logs", "--egress", "--all", "three").out
    assert [line.split()[1] for line in shown.splitlines()] == ["cached", "cached"]
    receipt = json.loads(there("show", "--json", "three").out)
    assert 0 <= receipt["egress"]["bytes_cached"] - 2 * len(SOUND) < 1000  # with the head of one
    without = run(there, image, GET, CACHED, "--no-cache-packages")
    assert "exclude each other" in without.err
    fresh = run(there, image, GET)
    assert fresh.out == sums(POISON, 2), fresh


def test_the_cache_is_listed_verified_and_pruned(there: Bottle, image: str) -> None:
    assert run(there, image, GET, CACHED).code == 0
    assert "packages of api.example.org" in there("cache", "ls").out
    assert "2 packages, 0 damaged" in there("cache", "verify").out
    folder = there.cache / "packages"
    path = min(folder.iterdir())
    path.write_bytes(path.read_bytes()[1:])
    assert json.loads(there("cache", "verify", "--json").out)["damaged"][0]["package"] == path.name
    pruned = json.loads(there("cache", "prune", "--all", "--json").out)
    assert pruned["packages"]["removed"] == 2
    assert list(folder.iterdir()) == []


def test_a_cache_is_refused_where_there_is_no_proxy_for_it(there: Bottle, image: str) -> None:
    done = there("run", "--backend=docker", "--network=open", "--cache-packages=npm", "--image", image)
    assert "an open network has none" in done.err
    assert done.code != 0
    closed = there("run", "-q", "--backend=docker", "--cache-packages=npm", "--image", image, "--", "true")
    assert closed.code == 0, closed
