"""The cache behind the cache: what is in it saves a pack, and what is wrong with it costs a line."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.crafted import file, layer, saved
from tests.support.relay import Relay, busy_once
from tests.unit.remote.conftest import Signers

from bot_bottle.cache.cache import Cache
from bot_bottle.cli.main import bottle
from bot_bottle.engine.source import Source
from bot_bottle.errors import TrustError
from bot_bottle.host import paths, rundir
from bot_bottle.host.progress import Progress
from bot_bottle.image.spec import Digest
from bot_bottle.pack.converter import Conversion, Converter
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.remote import artifact as remote
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.session import NotThereError, Session
from bot_bottle.remote.shared import SharedCache


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layer([file("app", os.urandom(100_000))])))
    return path


class Machine:
    """A machine with a cache of its own, and the shared one."""

    def __init__(self, folder: Path, shared: SharedCache) -> None:
        self.folder, self._shared = folder, shared
        self.said = io.StringIO()

    def convert(self, archive: Path) -> Conversion:
        with paths.override_cache_dir(self.folder), rundir.run_dir() as run:
            progress = Progress("plain", self.said)
            options = ConvertOptions(shared=self._shared)
            return Converter(run, progress, options).convert(Source.of_archive(str(archive)))

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.said.getvalue().splitlines() if line.startswith("warning: ")]


@pytest.fixture
def ci(tmp_path: Path, reference: Reference, signers: Signers) -> Machine:
    """A machine that puts what it makes into the shared cache, signed."""
    return Machine(tmp_path / "ci", SharedCache(reference, signers.trusted, signers.key, pushes=True))


@pytest.fixture
def laptop(tmp_path: Path, reference: Reference, signers: Signers) -> Machine:
    return Machine(tmp_path / "laptop", SharedCache(reference, signers.trusted, None))


def test_what_one_machine_made_another_does_not_make_again(
    ci: Machine, laptop: Machine, relay: Relay, archive: Path
) -> None:
    made = ci.convert(archive)
    assert (made.fetched, "pack" in made.seconds) == (False, True)
    relay.answer = busy_once(503, "0")
    got = laptop.convert(archive)
    assert (got.fetched, "pack" in got.seconds) == (True, False)
    assert got.entry.key == made.entry.key
    assert got.entry.path.read_bytes() == made.entry.path.read_bytes()
    requests = len(relay.seen)
    assert laptop.convert(archive).entry.hit
    assert len(relay.seen) == requests
    assert not laptop.warnings
    assert not ci.warnings


def test_what_is_there_is_not_put_there_again(ci: Machine, relay: Relay, archive: Path) -> None:
    ci.convert(archive)
    pushed = len(relay.paths("PUT", "manifests"))
    ci.convert(archive)
    assert len(relay.paths("PUT", "manifests")) == pushed


def test_what_is_not_there_is_made_without_a_word(laptop: Machine, relay: Relay, archive: Path) -> None:
    assert not laptop.convert(archive).fetched
    assert not laptop.warnings
    assert not relay.paths("PUT", "") + relay.paths("POST", "")


@pytest.mark.parametrize("poison", ["unsigned", "other signer", "older", "arm64", "other bytes"])
def test_a_poisoned_cache_is_refused_with_the_reason_and_the_artifact_made_here(
    ci: Machine,
    laptop: Machine,
    relay: Relay,
    archive: Path,
    reference: Reference,
    signers: Signers,
    tmp_path: Path,
    poison: str,
) -> None:
    made = ci.convert(archive).entry
    session = Session(reference.tagged(made.key.stem))
    older = tmp_path / "older.tar"
    older.write_bytes(saved(layer([file("app", b"older")])))
    wrong = ""
    if poison == "unsigned":
        unsigned = Session(Reference(reference.host, f"{reference.repository}-2", made.key.stem))
        remote.push(unsigned, made.path, made.key, 1e9)
        laptop._shared._reference = unsigned.reference
        wrong = "is not signed"
    elif poison == "other signer":
        other = Session(Reference(reference.host, f"{reference.repository}-3", made.key.stem))
        remote.push(other, made.path, made.key, 1e9, signing_key=signers.other)
        laptop._shared._reference = other.reference
        wrong = "no trusted key has signed it"
    elif poison == "older":
        before = ci.convert(older).entry  # whose signature is sound, at its own key
        raw = Session(reference.tagged(before.key.stem)).ask("GET", "manifests/" + before.key.stem).document()
        headers = {"Content-Type": json.loads(raw)["mediaType"]}
        session.ask("PUT", f"manifests/{made.key.stem}", raw, headers, wanted=(201,)).__exit__()
        wrong = "another key"
    elif poison == "arm64":
        raw = session.ask("GET", f"manifests/{made.key.stem}").document().replace(b"amd64", b"arm64")
        headers = {"Content-Type": json.loads(raw)["mediaType"]}
        session.ask("PUT", f"manifests/{made.key.stem}", raw, headers, wanted=(201,)).__exit__()
        wrong = "has no artifact for linux/amd64"
    else:
        blob = str(made.digest)
        relay.change = lambda how, path, reply: (
            (reply[0], reply[1], b"x" + reply[2][1:]) if how == "GET" and blob in path else reply
        )
        wrong = "other bytes"
    got = laptop.convert(archive)
    assert (got.fetched, got.entry.digest) == (False, made.digest)
    [warning] = laptop.warnings
    assert "refused" in warning
    assert wrong in warning


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections, and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


def test_a_registry_that_does_not_answer_costs_two_seconds_once_and_a_line(
    tmp_path: Path, silent: int, archive: Path
) -> None:
    machine = Machine(
        tmp_path / "m", SharedCache(Reference(f"127.0.0.1:{silent}", "a"), None, None, pushes=True)
    )
    made = machine.convert(archive)
    assert not made.fetched
    [warning] = machine.warnings
    assert "is not used" in warning


@pytest.mark.parametrize(
    "status", [401, 503, *(pytest.param(status, marks=pytest.mark.slow) for status in (403, 429, 500))]
)
def test_a_registry_that_refuses_costs_a_line(
    ci: Machine, laptop: Machine, relay: Relay, archive: Path, status: int
) -> None:
    ci.convert(archive)
    relay.answer = lambda *_: (status, {"WWW-Authenticate": 'Basic realm="x"'}, b"no")
    assert not laptop.convert(archive).fetched
    assert len(laptop.warnings) == 1


def test_a_download_that_breaks_is_given_up(
    ci: Machine, laptop: Machine, relay: Relay, archive: Path
) -> None:
    ci.convert(archive)
    relay.cut, relay.cuts = 5000, 100
    got = laptop.convert(archive)
    assert (got.fetched, len(laptop.warnings)) == (False, 1)
    relay.cuts = 0


def test_a_repository_names_a_shared_cache_only_if_the_user_grants_it(
    tmp_path: Path, reference: Reference, archive: Path, ci: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ci.convert(archive)
    place = f"{reference.host}/{reference.repository}"
    (tmp_path / "bottle.toml").write_text(f'[cache]\nremote = "{place}"\n')
    monkeypatch.chdir(tmp_path)
    argv = ["pack", "--archive", str(archive), "--json"]
    refused = CliRunner().invoke(bottle, argv)
    assert isinstance(refused.exception, TrustError)
    assert f"use artifacts that others have put into {place}" in refused.exception.why
    granted = CliRunner().invoke(bottle, [*argv, "--yes"])
    assert json.loads(granted.stdout)["cache"] == "remote"


def test_the_users_own_shared_cache_needs_no_grant_and_is_before_that_of_a_repository(
    tmp_path: Path,
    reference: Reference,
    archive: Path,
    ci: Machine,
    signers: Signers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = ci.convert(archive).entry.digest
    folder = tmp_path / "config" / "bot-bottle"
    folder.mkdir(parents=True)
    (folder / "signers").write_bytes(signers.trusted.read_bytes())
    place = f"{reference.host}/{reference.repository}"
    (folder / "config.toml").write_text(f'[cache]\nremote = "{place}"\ntrust = "signers"\n')
    (tmp_path / "bottle.toml").write_text('[cache]\nremote = "127.0.0.1:1/nobody"\n')
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(bottle, ["pack", "--archive", str(archive), "--json"])
    document = json.loads(done.stdout)
    assert (document["cache"], document["digest"]) == ("remote", str(digest))
    assert Cache(paths.artifacts_dir()).list()[0].digest == Digest(document["digest"])


def test_what_is_put_there_is_searched_for_secrets_if_the_user_says_so(
    tmp_path: Path, reference: Reference
) -> None:
    leaking, settings = tmp_path / "leaking.tar", tmp_path / "config" / "bot-bottle" / "config.toml"
    leaking.write_bytes(saved(layer([file("app/.npmrc", b"//example.org/:_authToken=canary-7d2\n")])))
    settings.parent.mkdir(parents=True)
    place = f"{reference.host}/{reference.repository}"
    settings.write_text(f'[cache]\nremote = "{place}"\nscan = true\n')
    argv = ["pack", "--cache-push", "--archive", str(leaking), "--json"]
    kept = CliRunner().invoke(bottle, argv)
    assert f"not put into the shared cache: {json.loads(kept.stdout)['key']}" in kept.stderr
    assert "1 place looks like a secret" in kept.stderr
    session = Session(reference.tagged(json.loads(kept.stdout)["key"].removesuffix(".smolmachine")))
    with pytest.raises(NotThereError):
        remote.find(session, None)
    settings.write_text(f'{settings.read_text()}scan_exclude = ["app/*"]\n')
    CliRunner().invoke(bottle, argv)
    found = remote.find(session, None).receipt
    assert found is not None
    assert found.scan == "nothing found, without app/*"


@pytest.mark.parametrize(
    "text",
    ['[cache]\nremot = "x"\n', "[cache]\nremote = 1\n", '[image]\nname = "x"\n', '[cache]\nremote = "a/b"\n',
     '[cache]\nremote = "example.org/a:1"\n'],
)  # fmt: skip
def test_a_users_configuration_that_cannot_be_used_is_refused(
    tmp_path: Path, archive: Path, text: str
) -> None:
    folder = tmp_path / "config" / "bot-bottle"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    done = CliRunner().invoke(bottle, ["pack", "--archive", str(archive)])
    assert done.exception is not None
    assert done.exception.exit_code in (2, 101)  # type: ignore[attr-defined]
