"""What a command may do in a container: root in it has seven capabilities, other users none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import fake_engines
from tests.support.bottle import Bottle, Ended
from tests.support.engine_matrix import Case
from tests.support.engines import Docker, Podman
from tests.support.images import busybox_context

pytestmark = [pytest.mark.one_client, pytest.mark.one_store]

# files of root's, one that others may read and one that they may not, and what only an owner may do
TRIED = r"""
id -u
grep -E "^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):" /proc/self/status | tr -d "\t"
touch /root/written 2>/dev/null && echo wrote
cat /t/private 2>/dev/null && echo read
chown 1000:1000 /t/private 2>/dev/null && chown 0:0 /t/private && echo owned
chmod 666 /etc/passwd 2>/dev/null && echo changed
"""
_SETS = ("CapInh:0000000000000000", "CapPrm:{0}", "CapEff:{0}", "CapBnd:00000000000000fb")
_REST = ("CapAmb:0000000000000000", "NoNewPrivs:1", "Seccomp:2")
NONE = [line.format("0000000000000000") for line in (*_SETS, *_REST)]
SEVEN = [line.format("00000000000000fb") for line in (*_SETS, *_REST)]
AS_ROOT = ["0", *SEVEN, "wrote", "private", "read", "owned", "changed"]
AS_OWNER = ["0", *NONE, "wrote", "private", "read", "changed"]

# one step, where the image of the backend's suite has many
_DOCKERFILE = """\
FROM scratch
COPY rootfs /
ENV PATH=/usr/bin:/bin
RUN mkdir /t && echo private > /t/private && chmod 600 /t/private
USER agent
"""


def as_user(uid: int) -> list[str]:
    return [str(uid), *NONE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context of an image with files that only root may write to, or read."""
    return busybox_context(tmp_path_factory.mktemp("privileges"), _DOCKERFILE)


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    """The image in each engine in which it was built."""
    return {}


@pytest.fixture
def world(
    engine_case: Case,
    containers: Docker | Podman,
    containers_bottle: Bottle,
    built: dict[str, str],
    folder: Path,
) -> Iterator[tuple[Bottle, str]]:
    """Run `bottle` with an engine that has the image. No container stays."""
    name = str(engine_case)
    if name not in built:
        built[name] = containers.build(folder)
    yield containers_bottle, built[name]
    containers_bottle("stop", "-t", "0", "rights")
    assert containers.client("ps", "--all", "--quiet", "--filter=label=bot-bottle.bottle=rights") == b""


def run(bottle: Bottle, image: str, *options: str) -> Ended:
    argv = ("run", "-q", "--backend=docker", "--name=rights", *options, "--image", image)
    return bottle(*argv, "--", "sh", "-c", TRIED)


@pytest.mark.parametrize(
    ("user", "uid"),
    [
        ("", 1000),
        pytest.param("agent", 1000, marks=pytest.mark.others_slow),
        pytest.param("4321:0", 4321, marks=pytest.mark.others_slow),
        pytest.param("0:1000", 0, marks=pytest.mark.podmans_slow),
    ],
)
def test_only_root_has_capabilities(world: tuple[Bottle, str], user: str, uid: int) -> None:
    bottle, image = world
    done = run(bottle, image, *([f"--user={user}"] if user else []))
    assert done.out.split() == (as_user(uid) if uid else AS_ROOT), done


@pytest.mark.others_slow
def test_a_command_that_joins_a_bottle_has_its_users_capabilities(world: tuple[Bottle, str]) -> None:
    bottle, image = world
    for own in ("0", "agent"):
        argv = ("run", "-q", "-d", "--backend=docker", "--name=rights", f"--user={own}", "--image", image)
        assert bottle(*argv, "--", "sleep", "100").code == 0
        for user, uid in (("", 0 if own == "0" else 1000), ("0", 0), ("agent", 1000), ("4321", 4321)):
            options = [f"--user={user}"] if user else []
            done = bottle("exec", *options, "rights", "--", "sh", "-c", TRIED)
            expected = [as_user(uid) if uid else AS_ROOT]
            if bottle.changes["BOT_BOTTLE_ENGINE"] == "docker" and own == "agent" and not uid:
                expected.append(AS_OWNER)  # with docker 20.10
            assert done.out.split() in expected, (own, user, done)
        proof = json.loads(bottle("prove", "--json", "rights").out)
        effective = "00000000000000fb" if own == "0" else "0000000000000000"
        assert proof["status.CapEff"] == {"outcome": effective, "ok": True}
        assert bottle("stop", "-t", "0", "rights").code == 0


@pytest.mark.others_slow
def test_a_mounted_workspace_adds_no_capability(world: tuple[Bottle, str], tmp_path: Path) -> None:
    bottle, image = world
    (tmp_path / "work").mkdir()
    argv = ("run", "-q", "--backend=docker", "--name=rights", "--workspace=mount", "--image", image)
    done = bottle(*argv, "--", "sh", "-c", TRIED, cwd=tmp_path / "work")
    assert done.out.split() == as_user(1000), done


@pytest.mark.others_slow
@pytest.mark.parametrize(
    ("taken", "given", "told"),
    [
        ("--security-opt=no-new-privileges", "--tty=false", "NoNewPrivs: 0"),
        ("--security-opt=no-new-privileges", "--privileged", "Privileged"),
        ("--cap-", "--cap-add=CHOWN", "CapBnd: "),
        (
            "--security-opt=",
            "--security-opt=seccomp=unconfined",
            "UserNamespace: made",
        ),
    ],
    ids=["new-privileges", "privileged", "capabilities", "seccomp"],
)
def test_an_engine_that_gives_more_is_refused(
    world: tuple[Bottle, str], tmp_path: Path, taken: str, given: str, told: str
) -> None:
    bottle, image = world
    name = str(bottle.changes["BOT_BOTTLE_ENGINE"])
    program = shutil.which(name)
    assert program
    fake_engines.changing_options(tmp_path, Path(program), taken, given)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(replace(bottle, changes={**bottle.changes, "PATH": path}), image)
    done.failed(119, told)
