"""The engine wrapper over real engines: each docker client with each of its builders, and each podman."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

from bot_bottle.engine.engine import BuildRequest, Engine, NoSuchImageError
from bot_bottle.errors import BuildError, EngineError
from bot_bottle.host.process_tree import start_time
from bot_bottle.image.spec import Platform
from tests.support.bottle import wait_until
from tests.support.engine_matrix import BASE, PODMAN, Case, dockerfile, fresh_context
from tests.support.engines import OWNER


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context that no build has seen."""
    return fresh_context(tmp_path / "context")


@pytest.fixture
def lines() -> list[str]:
    """What a build has said."""
    return []


def run_output(lines: list[str]) -> list[str]:
    """Give a build's lines without what BuildKit puts before them."""
    return [re.sub(r"^#\d+ \d+\.\d+ ", "", line) for line in lines]


def files(engine: Engine, ref: str) -> set[str]:
    """Return the names of all files in an image's layers: a layer is what is a tar, whatever it is called."""
    names: set[str] = set()
    with engine.save(ref) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            # what docker saves has folders, and podman's has links beside the layers that they lead to
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            with suppress(tarfile.ReadError), tarfile.open(fileobj=content, mode="r|*") as layer:
                names |= {entry.name.removeprefix("./") for entry in layer}
    return names


# --- building


@pytest.mark.one_store
def test_an_unchanged_rebuild_gives_the_same_id(engine: Engine, context: Path, lines: list[str]) -> None:
    request = dockerfile(context, "RUN date +%N > /made && echo built\n")
    first = engine.build(request, lines.append)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first)
    assert "built" in run_output(lines)
    assert engine.build(request, lines.append) == first
    assert engine.build(BuildRequest(context, no_cache=True), lines.append) != first


@pytest.mark.one_store
@pytest.mark.podmans_slow
def test_a_build_argument_is_on_no_command_line(engine: Engine, context: Path) -> None:
    secret = "s3cret-value"  # noqa: S105 - the test's own
    request = dockerfile(context, 'ARG WORD\nARG OTHER=none\nRUN echo "$WORD $OTHER" && sleep 0.5\n')
    said: list[str] = []
    seen: list[bytes] = []

    def on_line(line: str) -> None:
        said.append(line)
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for pid in children:
            with suppress(OSError):  # it has ended
                seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())

    arguments = BuildRequest(request.context, build_args=(("WORD", secret), ("OTHER", None)))
    engine.build(arguments, on_line)
    assert f"{secret} none" in run_output(said)
    assert any(b"--build-arg=WORD\0" in command for command in seen)
    assert not any(secret.encode() in command for command in seen)


@pytest.mark.one_store
@pytest.mark.podmans_slow
def test_a_build_takes_target_platform_and_a_dockerfile_elsewhere(
    engine: Engine, context: Path, tmp_path: Path, lines: list[str]
) -> None:
    (tmp_path / "elsewhere").write_text(
        f"{BASE}FROM base AS wanted\nRUN touch /wanted\nFROM base\nRUN false\n"
    )
    platform = Platform.of_this_machine()
    request = BuildRequest(
        context, dockerfile=tmp_path / "elsewhere", target="wanted", platform=str(platform)
    )
    image = engine.build(request, lines.append)
    assert engine.inspect(image)["Architecture"] == platform.architecture
    names = files(engine, image)
    assert {"bin/busybox", "wanted"} <= names


@pytest.mark.one_store
def test_a_failing_step_is_reported_in_its_own_words(engine: Engine, context: Path, lines: list[str]) -> None:
    request = dockerfile(
        context, "RUN echo fine\nRUN echo the-reason >&2; sleep 0.3; exit 7\nRUN echo never\n"
    )
    with pytest.raises(BuildError, match="Dockerfile did not build") as caught:
        engine.build(request, lines.append)
    why = caught.value.why.splitlines()
    assert "the-reason" in why
    assert "7" in why[-1]
    assert "exit 7" in why[0]
    assert "fine" not in why
    assert len(why) <= 12  # newer BuildKit shows the lines of the Dockerfile


@pytest.mark.one_store
@pytest.mark.parametrize(
    ("rest", "word"),
    [
        ("BOGUS x\n", "BOGUS"),
        ("COPY missing /\n", "missing"),
        ("FROM registry.invalid/nothing\n", "registry.invalid"),
    ],
)
def test_a_dockerfile_that_cannot_be_carried_out_is_refused_with_the_word(
    engine: Engine, context: Path, lines: list[str], rest: str, word: str
) -> None:
    with pytest.raises(BuildError) as caught:
        engine.build(dockerfile(context, rest), lines.append)
    assert word in caught.value.why
    assert caught.value.next_step


@pytest.mark.one_store
@pytest.mark.podmans_slow
def test_a_failed_build_leaves_no_container(engine: Engine, context: Path, lines: list[str]) -> None:
    def containers() -> set[str]:
        listing = [str(engine.program), "ps", "-aq", *(["--external"] if engine.name == PODMAN else [])]
        return set(
            subprocess.run(listing, capture_output=True, check=True, timeout=60).stdout.decode().split()
        )

    before = containers()
    with pytest.raises(BuildError):
        engine.build(dockerfile(context, "RUN false\n"), lines.append)
    assert containers() <= before


@pytest.mark.one_store
@pytest.mark.podmans_slow
def test_a_containerfile_is_built(engine: Engine, context: Path, lines: list[str]) -> None:
    (context / "Containerfile").write_text(BASE)
    assert engine.exists(engine.build(BuildRequest(context), lines.append))


# --- images


@pytest.fixture(scope="module")
def built() -> dict[Case, str]:
    """The last image of the fixture `image`, by the engine and its client."""
    return {}


@pytest.fixture
def image(engine: Engine, engine_case: Case, built: dict[Case, str], context: Path) -> str:
    """An image that has no name. With its last name, docker 26 has removed that of the test before."""
    if engine_case not in built or not engine.exists(built[engine_case]):
        built[engine_case] = engine.build(dockerfile(context, "RUN echo made > /made\n"), lambda _: None)
    return built[engine_case]


@pytest.mark.any_builder
def test_names_come_and_go_and_the_image_stays(engine: Engine, engine_case: Case, image: str) -> None:
    name = f"bot-bottle-test-name:{OWNER}"
    assert not engine.exists(name)
    engine.tag(image, name)
    assert engine.image_id(name) == engine.image_id(image) == image
    assert engine.size(name) > 1_000_000
    assert engine.inspect(name)["Id"].removeprefix("sha256:") == image.removeprefix("sha256:")
    engine.untag(name)
    assert not engine.exists(name)
    # docker 26 with containerd's store removes an image with its last name
    assert engine.exists(image) == ("docker-26-containerd" not in str(engine_case))
    engine.untag(name)


@pytest.mark.any_builder
@pytest.mark.podmans_slow
def test_untag_of_one_name_leaves_the_others(engine: Engine, image: str) -> None:
    names = [f"bot-bottle-test-{which}:{OWNER}" for which in ("one", "two")]
    for name in names:
        engine.tag(image, name)
    engine.untag(names[0])
    assert [engine.exists(name) for name in names] == [False, True]
    engine.untag(names[1])


@pytest.mark.any_builder
@pytest.mark.podmans_slow
def test_an_unknown_image_is_an_error_of_its_own(engine: Engine) -> None:
    for unknown in (f"bot-bottle-test-nowhere:{OWNER}", "sha256:" + "0" * 64):
        assert not engine.exists(unknown)
        for ask in (
            engine.image_id,
            engine.inspect,
            engine.size,
            lambda ref: engine.tag(ref, "bot-bottle-x"),
        ):
            with pytest.raises(NoSuchImageError, match="no such image"):
                ask(unknown)
        with pytest.raises(NoSuchImageError), engine.save(unknown) as stream:
            stream.read()


@pytest.mark.any_builder
@pytest.mark.podmans_slow
def test_a_push_to_a_registry_that_does_not_answer_is_an_error(
    engine: Engine, image: str, lines: list[str]
) -> None:
    name = f"127.0.0.1:1/bot-bottle-test:{OWNER}"
    engine.tag(image, name)
    try:
        with pytest.raises(EngineError, match="could not push") as caught:
            engine.push(name, lines.append)
    finally:
        engine.untag(name)
    assert "127.0.0.1:1" in caught.value.why
    assert lines


@pytest.mark.any_builder
def test_a_saved_image_is_a_docker_archive(engine: Engine, image: str) -> None:
    with engine.save(image) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        members = {}
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".json") and member.isfile() else None
            members[member.name] = file.read() if file else b""
    (entry,) = json.loads(members["manifest.json"])
    # the id is the config's; or, where containerd keeps the image, that of its manifest or index
    assert image.removeprefix("sha256:") in entry["Config"] + members.get("index.json", b"").decode()
    assert set(entry["Layers"]) <= set(members)


def has_pending_signal(pid: int) -> bool:
    """Tell whether a process has yet to be given a signal. docker 28 then ends with its next write."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"^ShdPnd:\s*(\w+)", status, re.M)[1], 16))  # type: ignore[index]


@pytest.mark.any_builder
@pytest.mark.podmans_slow
def test_a_save_that_is_ended_from_outside_is_never_whole(engine: Engine, image: str) -> None:
    with pytest.raises(EngineError), engine.save(image) as stream:
        assert stream.read(1000)
        (pid,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()[-1:]
        os.kill(int(pid), 15)  # podman ends with status 0 then
        wait_until(lambda: not start_time(int(pid)) or not has_pending_signal(int(pid)))
        stream.read()
