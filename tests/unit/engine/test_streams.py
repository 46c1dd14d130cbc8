"""Building and saving with an engine that misbehaves."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from tests.support.fake_engines import Fake, engine, fails

from bot_bottle.engine.engine import BuildRequest, NoSuchImageError
from bot_bottle.errors import BuildError, DiskFullError, EngineError, ImageError, Interrupted
from bot_bottle.host import process
from bot_bottle.host.process_tree import start_time

ID = "sha256:" + "a" * 64


# --- building


BUILD = 'for word; do case $word in --iidfile=*) echo {id} > "${{word#*=}}";; esac; done'


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    (tmp_path / "Dockerfile").touch()
    return BuildRequest(tmp_path, build_args=(("TOKEN", "s3cret"),))


def test_a_build_gives_the_full_id_and_shows_its_lines(
    fake: Fake, request_: BuildRequest, cache_dir: Path
) -> None:
    record = request_.context / "record"
    docker = fake(
        "docker",
        f'[ "$1" = image ] && exec echo \'[{{"Id":"{ID}"}}]\'\n'
        f'echo "$@" > {record}; echo "$TOKEN $DOCKER_BUILDKIT" >> {record}\n'
        f'printf "one\\n\\033[31mtwo\\n"; {BUILD.format(id=ID)}',
    )
    lines: list[str] = []
    assert engine(docker).build(request_, lines.append) == ID
    assert lines == ["one", "two"]
    command, environment = record.read_text().splitlines()
    assert environment == "s3cret 0"
    assert "s3cret" not in command
    assert "--build-arg=TOKEN" in command
    assert not list((cache_dir / "runs").iterdir())


@pytest.mark.parametrize("left", ["", "garbage", "sha256:short", "--help"])
def test_a_build_that_names_no_image_has_failed(fake: Fake, request_: BuildRequest, left: str) -> None:
    write = BUILD.format(id=f"'{left}'") if left else "echo done"
    with pytest.raises(EngineError):
        engine(fake("docker", write)).build(request_, lambda _: None)


def test_a_built_image_may_have_been_removed_again(fake: Fake, request_: BuildRequest) -> None:
    docker = fake(
        "docker",
        f'[ "$1" = image ] && {{ echo "Error: No such image: {ID}" >&2; exit 1; }}\n{BUILD.format(id=ID)}',
    )
    with pytest.raises(NoSuchImageError):
        engine(docker).build(request_, lambda _: None)


def test_a_failed_build_ends_in_its_own_words(fake: Fake, request_: BuildRequest, cache_dir: Path) -> None:
    docker = fake("docker", "echo 'Step 1/1 : RUN make'; echo 'cc: no such file' >&2; exit 2")
    with pytest.raises(BuildError, match="did not build") as caught:
        engine(docker).build(request_, lambda _: None)
    assert caught.value.why == "Step 1/1 : RUN make\ncc: no such file"
    assert not list((cache_dir / "runs").iterdir())


def test_a_program_that_is_gone_is_an_engine_error(request_: BuildRequest) -> None:
    gone = engine(Path("/nowhere/docker"))
    for ask in (
        lambda: gone.build(request_, lambda _: None),
        lambda: gone.push("a", lambda _: None),
        lambda: gone.image_id("a"),
        lambda: gone.save("a").__enter__(),
    ):
        with pytest.raises(EngineError) as caught:
            ask()
        assert "could not be started" in caught.value.why


# --- saving


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("member")
        member.size = 300_000
        tar.addfile(member, io.BytesIO(bytes(range(256)) * 1200))
    return path


def test_a_whole_archive_comes_through(fake: Fake, archive: Path) -> None:
    docker = engine(fake("docker", f'[ "$*" = "save a" ] && cat {archive}'))
    with docker.save("a") as stream:
        assert stream.read(10) + stream.read() == archive.read_bytes()
    with docker.save("a") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        assert [member.name for member in tar] == ["member"]
    with docker.save("a") as stream, io.BufferedReader(stream) as buffered:
        assert buffered.read() == archive.read_bytes()


@pytest.mark.parametrize("read_before", [0, 100])
def test_a_whole_archive_is_poured_into_a_file(
    fake: Fake, archive: Path, tmp_path: Path, read_before: int
) -> None:
    docker = engine(fake("docker", f"cat {archive}"))
    counts: list[int] = []
    with docker.save("a") as stream, (tmp_path / "poured").open("w+b") as file:
        before = stream.read(read_before)
        stream.pour(file.fileno(), counts.append)
    whole = archive.read_bytes()
    assert before + (tmp_path / "poured").read_bytes() == whole
    assert sum(counts) == len(whole) - read_before


@pytest.mark.parametrize("kept", [0, 512, 100_000, 300_544])
def test_a_part_that_was_poured_is_never_whole(fake: Fake, archive: Path, tmp_path: Path, kept: int) -> None:
    docker = engine(fake("docker", f"head -c {kept} {archive}"))
    with (
        pytest.raises(EngineError, match="incomplete archive"),
        docker.save("a") as stream,
        (tmp_path / "poured").open("w+b") as file,
    ):
        stream.pour(file.fileno(), lambda _count: None)


@pytest.mark.parametrize("kept", [0, 512, 100_000, 300_544])
def test_an_engine_that_dies_is_an_error_whatever_came(fake: Fake, archive: Path, kept: int) -> None:
    docker = engine(fake("docker", f"head -c {kept} {archive}; {fails('unexpected EOF')}"))
    with pytest.raises(EngineError, match="does not answer") as caught, docker.save("a") as stream:
        assert len(stream.read()) == kept
    assert caught.value.why == "unexpected EOF"


def test_an_engine_that_dies_explains_what_its_reader_met(fake: Fake, archive: Path) -> None:
    docker = engine(fake("docker", f"head -c 100000 {archive}; {fails('unexpected EOF')}"))
    with pytest.raises(EngineError, match="does not answer"), docker.save("a") as stream:
        stream.read()
        raise ImageError("the archive is cut short")


@pytest.mark.parametrize("kept", [0, 512, 100_000, 300_544, 301_500])
def test_a_short_archive_is_never_taken_for_whole(fake: Fake, archive: Path, kept: int) -> None:
    podman = engine(fake("podman", f"head -c {kept} {archive}"), "podman", "buildah")
    with pytest.raises(EngineError, match="incomplete archive"), podman.save("a") as stream:
        stream.read()


def test_an_unknown_image_cannot_be_saved(fake: Fake) -> None:
    docker = engine(fake("docker", fails("Error response from daemon: No such image: a")))
    with pytest.raises(NoSuchImageError), docker.save("a") as stream:
        assert stream.read() == b""


@pytest.mark.parametrize(
    "error", [DiskFullError("full"), ImageError("bad"), Interrupted(), KeyboardInterrupt(), OSError("closed")]
)
def test_an_error_of_the_reader_is_its_own(fake: Fake, archive: Path, error: BaseException) -> None:
    docker = engine(fake("docker", f"cat {archive}"))
    with pytest.raises(type(error)) as caught, docker.save("a") as stream:
        stream.read(1000)
        raise error
    assert caught.value is error
    with pytest.raises(type(error)) as caught, docker.save("a") as stream:
        stream.read()
        raise error
    assert caught.value is error


def test_a_program_of_the_readers_own_may_fail(fake: Fake, archive: Path) -> None:
    docker = engine(fake("docker", f"cat {archive}"))
    with pytest.raises(process.CommandFailed, match="false"), docker.save("a"):
        process.run(["/bin/false"], timeout=10)


def test_a_reader_that_has_enough_ends_the_engine(fake: Fake, archive: Path, tmp_path: Path) -> None:
    docker = engine(fake("docker", f"echo $$ > {tmp_path}/pid; cat {archive}; exec sleep 60"))
    with docker.save("a") as stream:
        assert len(stream.read(1000)) == 1000
    assert not start_time(int((tmp_path / "pid").read_text()))
