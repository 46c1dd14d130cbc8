"""Artifacts in a real registry, beside smolvm's own push and pull. No engine is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_bottle.cache.cache import Cache
from bot_bottle.cluster.files import prepare_artifact
from bot_bottle.cluster.order import Artifact, FileName
from bot_bottle.host import paths
from bot_bottle.vm.package import link, package_folder
from tests.support.bottle import Bottle, end, wait_until
from tests.support.crafted import file, layer, saved
from tests.support.cutting import cutting
from tests.support.docker_registry import docker_registry
from tests.support.https_site import make_rsa_certificate
from tests.support.relay import busy_once, relaying
from tests.support.token_service import TokenService, token_service

PASSWORD = "canary-pass-7d2"  # noqa: S105


@pytest.fixture
def own(cache_dir: Path, tmp_path: Path) -> Bottle:
    """Run `bottle` without an engine, and with settings and logins of its own."""
    variables = {
        "DOCKER_HOST": f"unix://{tmp_path}/nothing.sock",
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    return Bottle(cache_dir, variables)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layer([file("app", os.urandom(20_000_000))])))
    return path


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenService]:
    with token_service(make_rsa_certificate(tmp_path / "token.pem")) as service:
        service.users["me"] = PASSWORD
        yield service


def log_in(own: Bottle, host: str, password: str = PASSWORD) -> None:
    folder = Path(str(own.changes["DOCKER_CONFIG"]))
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"me:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def smolvm(folder: Path, *args: str | Path) -> str:
    """Run smolvm itself, which needs nothing prepared where it boots no machine; return what it said."""
    package = package_folder()
    assert package is not None
    program = folder / "smolvm"
    if not program.exists():
        link(package[0] / "smol-vmm", program)
    places = {name: str(folder / name) for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME")}
    env = {**os.environ, **places, "SMOLVM_LIB_DIR": str(package[0])}
    done = subprocess.run([program, *args], env=env, capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def test_smolvm_and_bottle_pull_what_the_other_has_pushed(own: Bottle, archive: Path, tmp_path: Path) -> None:
    with docker_registry(tmp_path) as port:
        host = f"127.0.0.1:{port}"
        pushed = json.loads(own("push", f"{host}/team/agent:1", "--archive", archive, "--json").line)
        [artifact] = own.artifacts
        assert pushed["sent"] == pushed["size"] == artifact.stat().st_size
        said = smolvm(tmp_path, "pack", "pull", "-o", tmp_path / "theirs", f"{host}/team/agent:1")
        assert "Warning" not in said
        assert (tmp_path / "theirs").read_bytes() == artifact.read_bytes()
        smolvm(tmp_path, "pack", "push", "-f", artifact, f"{host}/team/theirs:2")
        ours = own("pull", f"{host}/team/theirs:2", "-o", tmp_path / "ours").path
        assert ours.read_bytes() == artifact.read_bytes()
        again = json.loads(own("push", f"{host}/team/theirs:2", "--archive", archive, "--json").line)
        assert again["sent"] == 0
        assert not own.leftovers


def test_what_was_searched_for_secrets_is_not_pushed_with_one_and_its_receipt_says_so(
    own: Bottle, tmp_path: Path
) -> None:
    leaking = tmp_path / "leaking.tar"
    leaking.write_bytes(
        saved(layer([file("app/.npmrc", f"//example.org/:_authToken={PASSWORD}\n".encode())]))
    )
    with docker_registry(tmp_path) as port:
        place = f"127.0.0.1:{port}/team/agent:1"
        own("push", place, "--archive", leaking, "--exclude", "x").failed(2, "only works with --scan")
        found = own("push", place, "--archive", leaking, "--scan", "--quiet")
        found.failed(122, "not pushed", "app/.npmrc:1: credentials in a credential file", "--exclude")
        assert PASSWORD not in found.err
        own("pull", place).failed(112, "is not in the registry")
        for source, how, result in (
            (leaking, ("--scan", "--exclude", "app/*"), "nothing found, without app/*"),
            (leaking, (), "not scanned"),
        ):
            tag = f"{place}{len(result)}"
            pushed = json.loads(own("push", tag, "--archive", source, *how, "--json").line)
            pulled = json.loads(own("pull", tag, "--json").line)
            assert (pushed["scan"], pulled["scan"]) == (result, result)


def test_a_registry_that_wants_tokens_gets_them_from_dockers_login(
    own: Bottle, archive: Path, tmp_path: Path, tokens: TokenService
) -> None:
    with docker_registry(tmp_path, tokens) as port:
        place = f"127.0.0.1:{port}/team/agent:1"
        own("push", place, "--archive", archive).failed(
            112, "requires a login", f"docker login 127.0.0.1:{port}"
        )
        log_in(own, f"127.0.0.1:{port}", "another-one")
        own("push", place, "--archive", archive).failed(112, "was refused")
        log_in(own, f"127.0.0.1:{port}")
        done = own("push", place, "--archive", archive)
        assert done.line
        assert any("push" in each["scope"] for each in tokens.asked)  # in the registry's words
        own("pull", place)
        assert len({path.read_bytes() for path in own.artifacts}) == 1
        assert PASSWORD not in done.err


def test_a_token_that_has_expired_is_renewed_once(
    own: Bottle, archive: Path, tmp_path: Path, tokens: TokenService
) -> None:
    with docker_registry(tmp_path, tokens) as port:
        place = f"127.0.0.1:{port}/team/agent:1"
        log_in(own, f"127.0.0.1:{port}")
        tokens.life[:] = [-3600, 300]
        assert own("push", place, "--archive", archive).line
        tokens.life[:] = [-3600]
        own("pull", place).failed(112, "does not let you read")


def test_a_registry_that_is_busy_is_asked_again(own: Bottle, archive: Path, tmp_path: Path) -> None:
    with docker_registry(tmp_path) as port, relaying(port) as relay:
        place = f"127.0.0.1:{relay.port}/team/agent:1"
        relay.answer = busy_once(429, "0")
        done = own("push", place, "--archive", archive)
        [artifact] = own.artifacts
        assert "is busy or out of order; it is asked again in 0 s" in done.err
        relay.answer = busy_once(503, "0")
        assert own("pull", place, "-o", tmp_path / "copy").path.read_bytes() == artifact.read_bytes()


def test_transfers_that_break_or_are_interrupted_are_completed(
    own: Bottle, archive: Path, cache_dir: Path, tmp_path: Path
) -> None:
    one, other = (Bottle(cache_dir.with_name(name), own.changes) for name in ("one", "other"))
    with docker_registry(tmp_path) as port, cutting(port) as relay:
        place = f"127.0.0.1:{relay.port}/team/agent:1"
        relay.limits["up"] = [5_000_000, 25_000_000]  # in the first chunk, and in the next try's second
        assert own("push", place, "--archive", archive).line
        [artifact] = own.artifacts
        size = artifact.stat().st_size
        assert relay.passed["up"] > size + 20_000_000  # this registry gives up an upload that breaks so

        relay.limits["down"] = [3_000_000, 20_000_000]
        pulled = one("pull", place).path
        assert pulled.read_bytes() == artifact.read_bytes()
        assert relay.passed["down"] < size + 500_000

        relay.passed["down"], relay.limits["down"], relay.holds = 0, [20_000_000], True
        pull = other.start("pull", place)
        assert relay.standing.wait(60)
        downloads = other.cache / "downloads"
        # what has been passed on is on its way for a while
        wait_until(lambda: sum(path.stat().st_size for path in downloads.iterdir()) > 19_000_000)
        pull.send_signal(signal.SIGINT)
        ended = end(pull)
        assert (ended.code, ended.out, other.artifacts) == (130, "", [])
        assert "what came stays for the next pull" in ended.err
        assert other.leftovers == []
        relay.passed["down"], relay.holds = 0, False
        assert other("pull", place).path.read_bytes() == artifact.read_bytes()
        assert relay.passed["down"] < size - 18_000_000
        assert not list(downloads.iterdir())


def test_an_artifact_of_the_shared_cache_costs_what_differs_from_those_that_are_here(
    own: Bottle, cache_dir: Path, tmp_path: Path
) -> None:
    base = layer([file(f"base/{number}", os.urandom(1_900_000)) for number in range(10)])
    for name in ("one", "two"):
        (tmp_path / f"{name}.tar").write_bytes(saved(base, layer([file("app", os.urandom(500_000))])))
    settings = tmp_path / "config" / "bot-bottle"
    settings.mkdir(parents=True)
    laptop = Bottle(cache_dir.with_name("laptop"), own.changes)
    with docker_registry(tmp_path) as port, relaying(port) as relay:
        (settings / "config.toml").write_text(f'[cache]\nremote = "127.0.0.1:{relay.port}/team/bottles"\n')
        for name in ("one", "two"):
            assert own("pack", "--cache-push", "--archive", tmp_path / f"{name}.tar").path
        first = json.loads(laptop("pack", "--json", "--archive", tmp_path / "one.tar").line)
        before = relay.sent
        second = json.loads(laptop("pack", "--json", "--archive", tmp_path / "two.tar").line)
        assert (first["cache"], second["cache"]) == ("remote", "remote")
        assert relay.sent - before < 900_000 < second["size"] // 20
        assert {each.read_bytes() for each in laptop.artifacts} == {
            each.read_bytes() for each in own.artifacts
        }
        assert not laptop.leftovers


def test_a_node_of_a_cluster_takes_what_its_shared_cache_has(
    own: Bottle, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: FileName, out: Path, digest: str = "") -> None:
        asked.append((name, digest))
        shutil.copyfile(other.path, out)

    settings = tmp_path / "config" / "bot-bottle"
    settings.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with docker_registry(tmp_path) as port, paths.override_cache_dir(tmp_path / "node"):
        (settings / "config.toml").write_text(f'[cache]\nremote = "127.0.0.1:{port}/team/bottles"\n')
        assert own("pack", "--cache-push", "--archive", archive).path
        [made] = Cache(own.cache / "smolmachines").list()
        prepare_artifact(Artifact(made.key, made.digest, ""), fetch)
        assert asked == []
        [found] = Cache(paths.artifacts_dir()).list()
        assert (found.key, found.path.read_bytes()) == (made.key, made.path.read_bytes())
        found.path.unlink()
        archive.write_bytes(saved(layer([file("app", b"another")])))
        assert own("pack", "--archive", archive).path
        [other] = (each for each in Cache(own.cache / "smolmachines").list() if each.key != made.key)
        # the caller's is not what is there
        prepare_artifact(Artifact(made.key, other.digest, ""), fetch)
        assert asked == [("artifact", other.digest.hex)]
        assert found.path.read_bytes() == other.path.read_bytes()
