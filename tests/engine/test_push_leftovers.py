"""What is in an engine after an image has left it: just what was there before, however that ended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bot_bottle import ephemeral_registry
from bot_bottle.engine.engine import Engine
from tests.support.bottle import Bottle
from tests.support.engine_matrix import PODMAN, Case, dockerfile, fresh_context
from tests.support.engines import OWNER, call

pytestmark = pytest.mark.one_client  # what builds the image does not matter

# docker 26 with containerd's image store removes an image with its last name, whoever gets the name
LOSES_NAMELESS = "docker-26-containerd"

# Ends bottle at its Nth command that changes the engine, before or after the engine carries that out.
ENDING = """\
#!/bin/sh
case "$1 $2" in
"tag "* | "push "* | "import "* | "image rm" | "untag "*)
    echo "$*" >>"$COUNT"
    if [ "$(wc -l <"$COUNT")" = "$AT" ]; then
        if [ "$WHEN" = after ]; then "$PROGRAM" "$@"; fi
        kill -"$SIGNAL" "$PPID"
        if [ "$WHEN" = after ] || [ "$SIGNAL" = KILL ]; then exit; fi
    fi
    ;;
esac
exec "$PROGRAM" "$@"
"""


@pytest.fixture
def nameless(engine: Engine, tmp_path: Path) -> str:
    """The id of an image of its own, without a name."""
    request = dockerfile(fresh_context(tmp_path / "context"), "COPY rootfs/etc/hostname /one\n")
    return engine.build(request, lambda _line: None)


@pytest.fixture
def image(engine: Engine, engine_case: Case, nameless: str) -> str:
    """The id of an image of its own, without a name where that can be pushed."""
    if engine_case.engine == LOSES_NAMELESS:
        engine.tag(nameless, f"bot-bottle-test-named:{OWNER}-{nameless[-12:]}")
    return nameless


@pytest.mark.podmans_slow
def test_an_image_that_a_push_would_lose_is_not_pushed(
    engine: Engine, engine_case: Case, nameless: str, tmp_path: Path
) -> None:
    asked = ("pack", "--image", nameless, "--engine", engine.name)
    done = Bottle(tmp_path / "push")(*asked, "--transport", "push")
    if engine_case.engine == LOSES_NAMELESS:
        done.failed(103, f"would lose the image {nameless}", "give it a name: docker tag")
    assert Bottle(tmp_path / "auto")(*asked).path
    assert engine.exists(nameless)


def told(engine: Engine, *args: str) -> list[str]:
    return sorted(call([str(engine.program), *args], dict(os.environ)).decode().splitlines())


def state(engine: Engine, image: str) -> list[list[str]]:
    """What users of the engine see of an image: its names, containers, and images that served to untag it.

    Others may use the engine meanwhile.
    """
    ours = [line for line in images(engine) if line.endswith(image)]
    empty = ("--filter=dangling=true", "--filter=label=bot-bottle.empty=1")
    return [
        ours,
        told(engine, "ps", "--all", "--quiet", "--no-trunc", f"--filter=ancestor={image}"),
        told(engine, "image", "ls", "--quiet", *empty),
    ]


def images(engine: Engine) -> list[str]:
    shown = "{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}"
    return told(engine, "image", "ls", "--all", "--digests", "--no-trunc", f"--format={shown}")


def pack(bottle: Bottle, engine: Engine, image: str, transport: str = "push", **env: str) -> int:
    """Pack an image anew; give the exit status."""
    shutil.rmtree(bottle.cache / "smolmachines", ignore_errors=True)
    asked = ("pack", "--image", image, "--engine", engine.name, "--transport", transport)
    return bottle(*asked, env=env).code


@pytest.mark.parametrize(
    ("transport", "names"),
    [
        pytest.param("push", 0, marks=pytest.mark.podmans_slow),
        pytest.param("push", 1, marks=pytest.mark.slow),
        pytest.param("push", 2, marks=pytest.mark.others_slow),
        pytest.param("save", 1, marks=[pytest.mark.newest, pytest.mark.others_slow]),
        pytest.param("direct", 1, marks=[pytest.mark.newest, pytest.mark.others_slow]),
        pytest.param("auto", 0, marks=pytest.mark.podmans_slow),
    ],
)
def test_an_image_that_was_packed_is_as_before_and_can_be_removed(
    engine: Engine, engine_case: Case, nameless: str, tmp_path: Path, transport: str, names: int
) -> None:
    image, least = nameless, int(engine_case.engine == LOSES_NAMELESS)
    named = [f"bot-bottle-test-left-{number}:{OWNER}" for number in range(max(names, least))]
    for name in named:
        engine.tag(image, name)
    before = state(engine, image)
    assert pack(Bottle(tmp_path / "cache"), engine, image, transport) == 0
    assert state(engine, image) == before
    *others, last = named or [image]
    for name in others:
        told(engine, "rmi", name)
    assert any(
        image.removeprefix("sha256:") in line and "eleted" in line for line in told(engine, "rmi", last)
    )
    assert state(engine, image)[0] == []


@pytest.mark.others_slow
def test_a_push_from_python_leaves_the_engine_as_it_was(engine: Engine, image: str) -> None:
    before = state(engine, image)
    with ephemeral_registry(push=True) as registry:
        for _ in range(2):
            registry.push_image(engine, image, "app")
            assert state(engine, image) == before


@pytest.mark.parametrize(
    ("signal", "when", "places"),
    [
        pytest.param("KILL", "after", "some", marks=[pytest.mark.newest, pytest.mark.podmans_slow]),
        pytest.param("KILL", "after", "all", marks=pytest.mark.slow),
        # what is removed is the same, by the same program
        pytest.param("TERM", "after", "some", marks=[pytest.mark.own, pytest.mark.slow]),
        pytest.param("TERM", "after", "all", marks=[pytest.mark.newest, pytest.mark.slow]),
        pytest.param("TERM", "before", "all", marks=[pytest.mark.newest, pytest.mark.slow]),
    ],
)
def test_a_push_that_is_ended_at_any_command_leaves_nothing(
    engine: Engine, image: str, tmp_path: Path, signal: str, when: str, places: str
) -> None:
    """What a killed command leaves, the next one removes; one that is asked to end leaves nothing itself."""
    commands = 3 if engine.name == PODMAN else 6  # that change the engine: it ends at each, or at two of them
    at = range(1, commands + 1) if places == "all" else sorted({2, commands - 1})
    program = tmp_path / "ending" / engine.name
    program.parent.mkdir()
    program.write_text(ENDING)
    program.chmod(0o755)
    bottle = Bottle(tmp_path / "cache")
    before = state(engine, image)
    for number in (*at, commands + 1):
        count = tmp_path / f"count-{number}"
        env = {
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PROGRAM": str(engine.program),
            "COUNT": str(count),
            "AT": str(number),
            "WHEN": when,
            "SIGNAL": signal,
        }
        code = pack(bottle, engine, image, **env)
        if signal == "KILL":
            assert bottle("prune", env={**env, "AT": "never"}).code == 0
        assert state(engine, image) == before, (number, count.read_text())
        [place] = set(re.findall(r"127\.0\.0\.1:\d+/[0-9a-f]{32}/", count.read_text()))
        assert place not in str(images(engine))
        assert not [*(bottle.cache / "runs").glob("run-*"), *bottle.processes()]
        assert code == (0 if number > commands else {"KILL": -9, "TERM": 143}[signal])


@pytest.mark.podmans_slow
def test_an_image_that_loses_its_name_during_the_push_stays(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    """As when somebody builds the same name again meanwhile."""
    name = f"bot-bottle-test-moved:{OWNER}"
    engine.tag(image, name)
    with ephemeral_registry(push=True) as registry:

        def untag(_line: str) -> None:
            if engine.exists(name):
                engine.untag(name)

        registry.push_image(engine, image, "app", untag)
    assert not engine.exists(name)
    assert engine.exists(image)
    assert "127.0.0.1" not in str(state(engine, image))
    subprocess.run([str(engine.program), "rmi", image], check=True, capture_output=True, timeout=60)
