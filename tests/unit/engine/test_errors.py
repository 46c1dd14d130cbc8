"""What engines say when they fail, as they said it, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.engine.commands import Builder
from bot_bottle.engine.errors import (
    NoDockerArchiveError,
    NoSuchImageError,
    build_words,
    clean_line,
    not_built,
    not_replaced,
    refused,
)
from bot_bottle.errors import BuildError, EngineError

CLASSIC = """\
DEPRECATED: The legacy builder is deprecated and will be removed in a future release.
            BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0
            environment-variable.

Sending build context to Docker daemon  1.986MB
Step 1/2 : FROM scratch
 --->\x20
Step 2/2 : RUN make
 ---> Running in a9838c269042
\x1b[91mcc: no such file
\x1b[0mmake: *** [all] Error 1
The command '/bin/sh -c make' returned a non-zero code: 2"""
CLASSIC_WORDS = """\
Step 2/2 : RUN make
cc: no such file
make: *** [all] Error 1
The command '/bin/sh -c make' returned a non-zero code: 2"""

CLASSIC_PARSE = """\
Sending build context to Docker daemon  1.986MB
Error response from daemon: dockerfile parse error line 2: unknown instruction: BOGUS"""

# the BuildKit of clients before 23: nothing between the rules
BUILDKIT = """\
#1 [internal] load build definition from Dockerfile
#1 sha256:ed4b3ad8cce3439e25090f2e81ce51499dfe7c1ce2b3d395dab96836ed9cc93c
#1 transferring dockerfile: 209B done
#1 DONE 0.0s

#4 [1/3] COPY . /
#4 CACHED

#5 [2/3] RUN other
#5 0.241 words of another step
#5 DONE 0.3s

#6 [3/3] RUN make
#6 sha256:36f2c837bf55bd9bead1a48527f52c0aa8c2b57b40c21360e8120f6ee6a33028
#6 0.347 cc: no such file
#6 0.348 3.5 is a version
#6 ERROR: executor failed running [/bin/sh -c make]: exit code: 2
------
 > [3/3] RUN make:
------
executor failed running [/bin/sh -c make]: exit code: 2"""
BUILDKIT_WORDS = """\
> [3/3] RUN make:
cc: no such file
3.5 is a version
executor failed running [/bin/sh -c make]: exit code: 2"""

BUILDX = """\
#6 [3/3] RUN make
#6 0.347 cc: no such file
#6 ERROR: process "/bin/sh -c make" did not complete successfully: exit code: 2
------
 > [3/3] RUN make:
0.347 cc: no such file
------
Dockerfile:3
--------------------
   1 |     FROM scratch
   3 | >>> RUN make
--------------------
ERROR: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 2"""
BUILDX_WORDS = """\
> [3/3] RUN make:
cc: no such file
Dockerfile:3
   1 |     FROM scratch
   3 | >>> RUN make
ERROR: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 2"""

BUILDKIT_PARSE = """\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s
failed to solve with frontend dockerfile.v0: dockerfile parse error line 2: unknown instruction: BOGUS"""

PODMAN = """\
STEP 1/2: FROM scratch
--> 7d4c66a9998
STEP 2/2: RUN make
cc: no such file
subprocess exited with status 2
subprocess exited with status 2
Error: building at STEP "RUN make": exit status 2"""
PODMAN_WORDS = """\
STEP 2/2: RUN make
cc: no such file
Error: building at STEP "RUN make": exit status 2"""


@pytest.mark.parametrize(
    ("builder", "output", "words"),
    [
        ("classic", CLASSIC, CLASSIC_WORDS),
        ("classic", CLASSIC_PARSE, CLASSIC_PARSE.splitlines()[-1]),
        ("buildkit", BUILDKIT, BUILDKIT_WORDS),
        ("buildx", BUILDX, BUILDX_WORDS),
        ("buildx", BUILDX.replace("#6 0.347 cc: no such file\n", ""), BUILDX_WORDS),
        ("buildkit", BUILDKIT_PARSE, BUILDKIT_PARSE.splitlines()[-1]),
        ("buildah", PODMAN, PODMAN_WORDS),
    ],
)
def test_a_failed_build_is_told_in_the_failing_steps_words(builder: Builder, output: str, words: str) -> None:
    assert build_words(builder, output) == words
    error = not_built("docker", builder, Path("/src/Dockerfile"), output)
    assert isinstance(error, BuildError)
    assert error.message == "/src/Dockerfile did not build"
    assert error.why == words
    assert error.next_step


@pytest.mark.parametrize("builder", ["classic", "buildkit", "buildx", "buildah"])
def test_a_long_output_keeps_its_end(builder: Builder) -> None:
    number = "#6 0.1 " if builder in ("buildkit", "buildx") else ""
    words = build_words(builder, "\n".join(f"{number}line {count}" for count in range(1000)))
    assert words.endswith("line 999")
    assert len(words.splitlines()) == 20


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("write /x: no space left on device", "docker system prune"),
        ("pull access denied for nowhere/x, repository does not exist", "docker login"),
        ('Head "https://nowhere.invalid/v2/": dial tcp: lookup nowhere.invalid: no such host', "FROM"),
        ('Head "https://nowhere.invalid/v2/": dial tcp: lookup nowhere.invalid: no such host', "reaches it"),
        ('Get "https://nowhere.invalid/v2/": dial tcp: lookup nowhere.invalid: i/o timeout', "the network"),
        ("E: Failed to fetch http://nowhere.invalid/x  Temporary failure resolving 'nowhere'", "the network"),
        ("curl: (6) Could not resolve host: nowhere.invalid", "the network"),
        ("exec /bin/sh: exec format error", "qemu-user-static"),
        ("ERROR: BuildKit is enabled but the buildx component is missing or broken.", "DOCKER_BUILDKIT"),
        ("listen unix /long/.buildkit-ssh-sock1/ssh_auth_sock: bind: invalid argument", "DOCKER_TMPDIR"),
        ('building at STEP "RUN x": failed to read from slirp4netns sync pipe: EOF', "/dev/net/tun"),
    ],
)
def test_a_failed_build_says_what_to_do(said: str, step: str) -> None:
    error = not_built("docker", "classic", Path("Dockerfile"), f"Step 1/1 : FROM x\n{said}")
    assert isinstance(error, BuildError)
    assert step in error.next_step


@pytest.mark.parametrize(
    "said",
    [
        "Cannot connect to the Docker daemon at unix:///run/docker.sock. Is the docker daemon running?",
        "error during connect: Post http://docker/build: EOF",
        "unexpected EOF",
        "Error: Cannot connect to Podman. Please verify your connection to the Linux system",
    ],
)
def test_an_engine_that_goes_away_is_no_fault_of_the_dockerfile(said: str) -> None:
    error = not_built("docker", "buildkit", Path("Dockerfile"), f"#5 [2/2] RUN make\n{said}")
    assert isinstance(error, EngineError)
    assert error.message == "docker does not answer"


# the wordings of docker 20.10 and 28, and of podman 4
@pytest.mark.parametrize(
    "said",
    [
        "Error: No such image: nowhere",
        "Error response from daemon: no such image: nowhere: No such image: nowhere:latest",
        "Error response from daemon: reference does not exist",
        "Error response from daemon: failed to get digest sha256:0: open /d/imagedb/0: no such file",
        "An image does not exist locally with the tag: nowhere",
        "Error: nowhere: image not known",
    ],
)
def test_an_unknown_image_is_an_error_of_its_own(said: str) -> None:
    error = refused("docker", "save", "nowhere", said)
    assert isinstance(error, NoSuchImageError)
    assert error.message == "no such image: nowhere"
    assert error.why == said
    assert "docker image ls" in error.next_step


def test_any_other_refusal_keeps_the_engines_words() -> None:
    error = refused("podman", "push", "a/b", "Error: denied")
    assert type(error) is EngineError
    assert (error.message, error.why, error.next_step) == ("podman could not push a/b", "Error: denied", "")


def test_a_push_that_cannot_reach_the_registry_says_so() -> None:
    said = 'Get "http://127.0.0.1:38927/v2/": dial tcp 127.0.0.1:38927: connect: connection refused'
    assert "--transport save" in refused("docker", "push", "a/b", said).next_step
    assert "--transport" not in refused("docker", "pull", "a/b", said).next_step


def test_layers_that_no_docker_archive_can_have_are_an_error_of_their_own() -> None:
    said = (
        "Error: creating an updated image manifest: Error during manifest conversion: "
        '"application/vnd.oci.image.layer.v1.tar+zstd": zstd compression is not supported for docker images'
    )
    error = refused("podman", "save", "a", said)
    assert isinstance(error, NoDockerArchiveError)
    assert (error.message, error.why) == ("podman could not save a", said)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain ü\ttext", "plain ü\ttext"),
        ("\x1b[91mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("10%\r20%\r100%\r", "100%"),
        ("bell\x07 back\x08 c1\x9b31m", "bell\\x07 back\\x08 c1\\x9b31m"),
        ("\x1b]52;c;never ended", ""),
    ],
)
def test_lines_are_made_fit_for_a_terminal(line: str, shown: str) -> None:
    assert clean_line(line) == shown


@given(st.text())
def test_no_control_character_ever_reaches_a_terminal(line: str) -> None:
    assert all(char == "\t" or char.isprintable() for char in clean_line(line))


@given(
    st.sampled_from(["classic", "buildkit", "buildx", "buildah"]), st.text(alphabet="#>[ 0.1-\nERORSTP:/x")
)
def test_no_output_makes_the_explanation_fail(builder: Builder, output: str) -> None:
    not_built("docker", builder, Path("Dockerfile"), output)


# --- engines that cannot be used: what, why, next step

TOO_OLD = (
    "Error response from daemon: client version 1.41 is too old. Minimum supported API version is 1.44, "
    "please upgrade your client to a newer version"
)
TOO_NEW = "Error response from daemon: client version 1.52 is too new. Maximum supported API version is 1.41"
NO_CONTEXT = (
    'Failed to initialize: unable to resolve docker endpoint: context "far": context not found: open x'
)
SILENT = "Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running?"
DENIED = "permission denied while trying to connect to the docker API at unix://{}"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that says nothing of docker, and a PATH that is empty."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_BUILDKIT", "CONTAINER_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("words", "what", "step"),
    [
        (TOO_OLD, "client is too old for its server", "update the docker client"),
        (TOO_NEW, "server is too old for its client", "update the docker server"),
        (
            "API version 1.41 is not supported by this client: the minimum supported API version is 1.44",
            "server is too old",
            "update the docker server",
        ),
        (NO_CONTEXT, "no such context", "docker context ls"),
        (SILENT.format("/var/run/docker.sock"), "does not answer", "sudo systemctl start docker"),
        (SILENT.format("/run/user/9/docker.sock"), "does not answer", "--user start docker`, as the"),
        (
            SILENT.format("/home/me/.docker/desktop/docker.sock"),
            "does not answer",
            "systemctl --user start docker-desktop",
        ),
        (DENIED.format("/var/run/docker.sock"), "cannot be used", "usermod -aG docker"),
        (DENIED.format("/run/user/9/docker.sock"), "cannot be used", "run bottle as that user"),
        ("write /x: no space left on device", "could not save a", "docker system df"),
        (
            "unable to create manifests file: NotFound: content digest sha256:ab: not found",
            "could not save a",
            "docker pull --platform",
        ),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_be_used_has_a_next_step(words: str, what: str, step: str) -> None:
    error = refused("docker", "save", "a", words)
    assert what in error.message
    assert error.why == words
    assert step in error.next_step


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("words", [TOO_OLD, TOO_NEW])
def test_an_api_version_that_was_set_is_named_in_the_next_step(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", "1.52")
    assert "unset DOCKER_API_VERSION=1.52" in refused("docker", "tell", "", words).next_step


def test_docker_from_a_snap_has_next_steps_of_its_own(plain: Path) -> None:
    (plain / "snap").write_text("#!/bin/sh\n")
    (plain / "snap").chmod(0o755)
    (plain / "bin/docker").symlink_to(plain / "snap")
    silent = SILENT.format("/var/run/docker.sock")
    assert "sudo snap start docker" in refused("docker", "tell", "", silent).next_step
    assert "snap restart docker" in refused("docker", "tell", "", DENIED.format("/x")).next_step


HEREDOC = "FROM scratch\nRUN <<EOF\necho a\nEOF\n"
MOUNT = "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/"
ECHO = "Error response from daemon: dockerfile parse error line 4: unknown instruction: ECHO"
LINK = "Error response from daemon: dockerfile parse error line 2: Unknown flag: link"


@pytest.mark.parametrize(
    ("words", "text", "needed"),
    [
        (MOUNT, "", True),
        (LINK, "", True),
        (ECHO, HEREDOC, True),
        (ECHO, "FROM scratch\ncopy <<-'E' /x\necho a\n", True),
        (ECHO, "FROM scratch\nECHO a << b\n", False),
        ("cc: no such file", HEREDOC, False),
    ],
)
def test_a_dockerfile_that_needs_buildkit_is_explained_where_docker_has_none(
    plain: Path, monkeypatch: pytest.MonkeyPatch, words: str, text: str, needed: bool
) -> None:
    (plain / "Dockerfile").write_text(text)
    error = not_built("docker", "classic", plain / "Dockerfile", f"Step 1/2 : FROM x\n{words}")
    assert ("install the buildx plugin" in error.next_step) == needed
    assert needed or error.next_step == "correct the Dockerfile and run again"
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    error = not_built("docker", "classic", plain / "Dockerfile", words)
    assert ("unset DOCKER_BUILDKIT" in error.next_step) == needed
    assert "BuildKit:" not in not_built("docker", "buildx", plain / "Dockerfile", words).next_step


# buildx when it does not come as far as the Dockerfile
NO_BUILDER = 'ERROR: no builder "nowhere" found'
DEAD_BUILDER = """\
#0 building with "dead" instance using remote driver

#1 [internal] waiting for connection
#1 ERROR: context deadline exceeded
------
 > [internal] waiting for connection:
------
ERROR: failed to build: context deadline exceeded"""
NO_BUILDKIT_IMAGE = """\
#0 building with "box" instance using docker-container driver

#1 [internal] booting buildkit
#1 pulling image moby/buildkit:buildx-stable-1 0.1s done
#1 ERROR: Error response from daemon: failed to resolve reference "docker.io/moby/buildkit:buildx-stable-1": no such host
------
 > [internal] booting buildkit:
------
ERROR: failed to build: Error response from daemon: failed to resolve reference "docker.io/moby/buildkit:buildx-stable-1": no such host"""  # noqa: E501 - as it was printed
NO_FOLDER = (
    "ERROR: failed to build: failed to update builder last activity time: "
    "open /home/me/.docker/buildx/activity/.tmp-default1984862626: permission denied"
)


@pytest.mark.parametrize(
    ("output", "word", "step"),
    [
        (NO_BUILDER, "nowhere", "BUILDX_BUILDER=NAME"),
        (DEAD_BUILDER, "waiting for connection", "start that builder"),
        (NO_BUILDKIT_IMAGE, "moby/buildkit", "start that builder"),
        (NO_FOLDER, "permission denied", "BUILDX_CONFIG"),
    ],
)
def test_a_builder_that_does_not_work_is_not_the_dockerfiles_fault(output: str, word: str, step: str) -> None:
    error = not_built("docker", "buildx", Path("/p/Dockerfile"), output)
    assert isinstance(error, EngineError)
    assert "Dockerfile" not in error.message
    assert word in error.why
    assert step in error.next_step
    assert isinstance(not_built("docker", "buildx", Path("/p/Dockerfile"), BUILDX), BuildError)


def test_an_image_without_files_is_explained() -> None:
    said = "Error response from daemon: empty export - not implemented"
    assert "the image has no files" in refused("docker", "save", "a", said).next_step


def test_another_engine_may_be_all_that_can_be_advised() -> None:
    advised = not_replaced(EngineError("docker does not start"), "DOCKER_HOST=tcp://a").next_step
    assert advised == "choose another engine: --engine podman"
