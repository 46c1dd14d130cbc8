"""What docker and podman are told, without running either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.engine import commands as argv
from bot_bottle.engine.build_result import BuildResult
from bot_bottle.engine.commands import Builder, BuildRequest, EngineName
from bot_bottle.engine.limits import podman_limits
from bot_bottle.errors import EngineError, SpecError
from bot_bottle.secrets.build import BuildSecret, MountOptions, Ssh

PROGRAM = Path("/bin/engine")
FULL = BuildRequest(
    context=Path("/src"),
    target="final",
    platform="linux/arm64",
    build_args=(("TOKEN", "secret"), ("FROM_ENV", None)),
    no_cache=True,
    pull=True,
)


def build(builder: Builder, request: BuildRequest) -> list[str]:
    result = BuildResult(Path("/run/id"), Path("/run/metadata"))
    return list(argv.build_argv(PROGRAM, builder, request, Path("/src/Dockerfile"), result))


@pytest.mark.parametrize(
    ("builder", "own"),
    [
        ("classic", ["--force-rm"]),
        ("buildkit", ["--progress=plain"]),
        ("buildx", ["--progress=plain", "--load", "--metadata-file=/run/metadata"]),
        ("buildah", podman_limits()),
    ],
)
def test_build_takes_each_option_the_builder_knows(builder: Builder, own: list[str]) -> None:
    common = ["/bin/engine", "build", "--iidfile=/run/id", "--file=/src/Dockerfile"]
    assert build(builder, BuildRequest(Path("/src"))) == [*common, *own, "/src"]
    assert build(builder, FULL) == [
        *common,
        *own,
        "--target=final",
        "--platform=linux/arm64",
        "--build-arg=TOKEN",
        "--build-arg=FROM_ENV",
        "--no-cache",
        "--pull",
        "/src",
    ]


def test_a_context_never_reads_as_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build("classic", BuildRequest(Path("--help")))[-1] == str(tmp_path / "--help")


@pytest.mark.parametrize(
    ("builder", "chosen"),
    [
        ("classic", {"DOCKER_BUILDKIT": "0"}),
        ("buildkit", {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}),
        ("buildx", {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}),
        ("buildah", {}),
    ],
)
def test_build_values_and_the_builder_are_in_the_environment(
    builder: Builder, chosen: dict[str, str]
) -> None:
    environ = {"PATH": "/bin", "FROM_ENV": "there", "BUILDAH_ISOLATION": "chroot"}
    assert argv.build_env(builder, FULL, environ) == {**environ, **chosen, "TOKEN": "secret"}


@pytest.mark.parametrize("name", ["PATH", "HOME", "LD_PRELOAD", "DOCKER_HOST", "BUILDX_BUILDER", "TMPDIR"])
def test_a_build_argument_cannot_steer_the_engines_program(name: str) -> None:
    request = BuildRequest(Path("/src"), build_args=((name, "mine"),))
    with pytest.raises(SpecError, match=name):
        argv.build_env("classic", request, {name: "theirs"})
    assert argv.build_env("buildah", request, {name: "mine"}) == {name: "mine"}


@pytest.mark.parametrize(
    "name", ["HTTP_PROXY", "DOCKER_VERSION", "BUILDKIT_INLINE_CACHE", "PATH_PREFIX", "x.y"]
)
def test_a_build_argument_of_any_other_name_is_taken(name: str) -> None:
    request = BuildRequest(Path("/src"), build_args=((name, "a\nb=c"),))
    assert argv.build_env("buildah", request, {}) == {name: "a\nb=c"}


@pytest.mark.parametrize(
    ("name", "value"), [("", "x"), ("A=B", "x"), ("A B", "x"), ("A\0", "x"), ("A", "\0")]
)
def test_a_build_argument_that_no_environment_holds_is_refused(name: str, value: str) -> None:
    with pytest.raises(SpecError, match="invalid build argument"):
        argv.build_env("classic", BuildRequest(Path("/src"), build_args=((name, value),)), {})


def test_commands_on_images_have_their_arguments() -> None:
    assert argv.version_argv(PROGRAM) == ("/bin/engine", "version", "--format={{json .}}")
    assert argv.info_argv(PROGRAM) == ("/bin/engine", "info", "--format={{json .}}")
    assert argv.buildx_argv(PROGRAM) == ("/bin/engine", "buildx", "version")
    assert argv.inspect_argv(PROGRAM, "a:b") == ("/bin/engine", "image", "inspect", "a:b")
    assert argv.tag_argv(PROGRAM, "a", "b:c") == ("/bin/engine", "tag", "a", "b:c")
    assert argv.save_argv(PROGRAM, "docker", "a") == ("/bin/engine", "save", "a")
    assert argv.save_argv(PROGRAM, "podman", "a") == ("/bin/engine", "save", "--format=docker-archive", "a")
    assert argv.save_argv(PROGRAM, "podman", "a", "oci-archive")[2] == "--format=oci-archive"
    assert argv.untag_argv(PROGRAM, "a:b") == ("/bin/engine", "untag", "a:b", "a:b")
    label = "--change=LABEL bot-bottle.empty=1"
    assert argv.import_empty_argv(PROGRAM, "a:b") == ("/bin/engine", "import", label, "-", "a:b")
    assert argv.import_argv(PROGRAM, "a:b") == ("/bin/engine", "import", "-", "a:b")
    assert argv.remove_name_argv(PROGRAM, "a:b") == ("/bin/engine", "image", "rm", "a:b")


@pytest.mark.parametrize(
    ("ref", "plain"),
    [
        ("127.0.0.1:5000/a:b", True),
        ("127.1.2.3/a", True),
        ("localhost:5000/a", True),
        ("[::1]:5000/a", True),
        ("localhost.example.com/a", False),
        ("127.0.0.1.example.com/a", False),
        ("registry.example.org/a/b", False),
        ("a", False),
    ],
)
def test_podman_pushes_without_tls_to_loopback_alone(ref: str, plain: bool) -> None:
    assert ("--tls-verify=false" in argv.push_argv(PROGRAM, "podman", ref)) is plain
    assert argv.push_argv(PROGRAM, "docker", ref) == ("/bin/engine", "push", ref)


@pytest.mark.parametrize(
    "ref",
    ["a", "a:b", "a/b:c", "host:5000/a/b:c", "[::1]:5000/a", "sha256:" + "a" * 64, "a@sha256:" + "b" * 64],
)
def test_a_valid_image_reference_is_accepted(ref: str) -> None:
    assert argv.check_ref(ref) == ref


@pytest.mark.parametrize("ref", ["", "-a", "--help", " a", "a b", "a\n", "a\0", "$(x)", "é", "a" * 2000])
def test_what_is_no_image_reference_is_refused(ref: str) -> None:
    commands: tuple[Callable[[], tuple[str, ...]], ...] = (
        lambda: argv.inspect_argv(PROGRAM, ref),
        lambda: argv.tag_argv(PROGRAM, "a", ref),
        lambda: argv.tag_argv(PROGRAM, ref, "a"),
        lambda: argv.untag_argv(PROGRAM, ref),
        lambda: argv.import_empty_argv(PROGRAM, ref),
        lambda: argv.remove_name_argv(PROGRAM, ref),
        lambda: argv.push_argv(PROGRAM, "podman", ref),
        lambda: argv.save_argv(PROGRAM, "docker", ref),
    )
    for command in commands:
        with pytest.raises(SpecError, match="invalid image reference"):
            command()


@given(st.text())
def test_a_reference_that_passes_is_never_an_option(ref: str) -> None:
    try:
        argv.check_ref(ref)
    except SpecError:
        return
    assert ref[:1].isalnum() or ref[:1] == "["
    assert not any(char.isspace() for char in ref)


def test_the_dockerfile_is_looked_for_in_the_context(tmp_path: Path) -> None:
    request = BuildRequest(tmp_path)
    engines: list[EngineName] = ["docker", "podman"]
    for engine in engines:
        with pytest.raises(SpecError, match=f"no Dockerfile or Containerfile in {tmp_path}"):
            request.find_dockerfile(engine)
    for name in ("Containerfile", "Dockerfile"):
        (tmp_path / name).touch()
        assert {request.find_dockerfile(engine) for engine in engines} == {tmp_path / name}
        (tmp_path / name).unlink()
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "Containerfile").touch()
    assert request.find_dockerfile("docker") == tmp_path / "Dockerfile"
    assert request.find_dockerfile("podman") == tmp_path / "Containerfile"


def test_a_named_dockerfile_is_the_only_one_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "other").touch()
    assert BuildRequest(tmp_path, Path("other")).find_dockerfile() == tmp_path / "other"
    for missing in (Path("gone"), Path("-"), tmp_path):
        with pytest.raises(SpecError, match=f"no file {missing}"):
            BuildRequest(tmp_path, missing).find_dockerfile()


def test_a_context_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="gone"):
        BuildRequest(tmp_path / "gone").find_dockerfile()


SECRETS = BuildRequest(Path("/src"), secrets=(BuildSecret("token", "env", "TOKEN"),), ssh=(Ssh("default"),))


@pytest.mark.parametrize("builder", ["buildkit", "buildx", "buildah"])
def test_secrets_and_agents_are_options_of_the_build(builder: Builder) -> None:
    argv.check_builder(builder, SECRETS, {})
    mounts = MountOptions(("--secret=id=token,env=A", "--ssh=default"), {"A": "canary"})
    result = BuildResult(Path("/run/id"), Path("/run/metadata"))
    command = argv.build_argv(PROGRAM, builder, SECRETS, Path("/src/Dockerfile"), result, mounts)
    assert command[-3:] == (*mounts.argv, "/src")


@pytest.mark.parametrize(("environ", "next_step"), [({}, "buildx"), ({"DOCKER_BUILDKIT": "0"}, "unset")])
def test_the_classic_builder_is_refused_what_it_would_ignore(environ: dict[str, str], next_step: str) -> None:
    for request, option in ((SECRETS, "--build-secret"), (replace(SECRETS, secrets=()), "--ssh")):
        with pytest.raises(EngineError, match=option) as caught:
            argv.check_builder("classic", request, environ)
        assert next_step in caught.value.next_step
    argv.check_builder("classic", replace(SECRETS, secrets=(), ssh=()), environ)
