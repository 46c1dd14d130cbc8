"""What a user may ask for, and what is refused before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.backend import BackendName
from bot_bottle.bottle.spec import BottleSpec, check_slug, make_slug, parse_env, parse_memory
from bot_bottle.engine.engine import BuildRequest
from bot_bottle.engine.source import Source, parse_build_args
from bot_bottle.errors import SpecError, UsageError
from bot_bottle.network.ports import Port, allocate_host_ports, parse_ports
from bot_bottle.pack.options import ConvertOptions

SOURCE = Source(image="hello")


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("512m", 512),
        ("4g", 4096),
        ("4G", 4096),
        ("1073741824", 1024),
        ("1048576k", 1024),
        ("536870912b", 512),
    ],
)
def test_memory_is_read_as_docker_has_it(text: str, mib: int) -> None:
    assert parse_memory(text) == mib


@pytest.mark.parametrize("text", ["", "4x", "-1g", "4 gb", "1.5g", "9" * 40 + "g"])
def test_a_bad_size_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_memory(text)


def test_env_takes_values_and_what_is_set_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    assert parse_env(["A=1", "B=", "HERE", "GONE", "A=2=3"]) == (("A", "2=3"), ("B", ""), ("HERE", "yes"))


@pytest.mark.parametrize("item", ["=x", "1A=x", "A B=x", "A=\0", "-e=1"])
def test_a_bad_variable_is_refused(item: str) -> None:
    with pytest.raises(SpecError):
        parse_env([item])


@pytest.mark.parametrize(
    "given",
    [
        {"via": "archive"},
        {"via": "registry"},
        {"packer": "smolvm", "transport": "direct"},
        {"packer": "smolvm", "via": "registry", "transport": "direct"},
        {"packer": "smolvm", "transport": "push"},
        {"packer": "smolvm", "via": "archive", "transport": "push"},
    ],
)
def test_a_way_to_pack_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ConvertOptions(**given)


def test_build_args_keep_the_difference_between_empty_and_not_given() -> None:
    assert parse_build_args(["A=1", "B=", "C"]) == (("A", "1"), ("B", ""), ("C", None))


@pytest.mark.parametrize("slug", ["a", "A-1_b", "x" * 63])
def test_a_valid_bottle_name_is_accepted(slug: str) -> None:
    assert check_slug(slug) == slug


@pytest.mark.parametrize("slug", ["", "-a", "a.b", "a/b", "../x", "x" * 64, "a\n", "ä"])
def test_an_invalid_bottle_name_is_refused(slug: str) -> None:
    with pytest.raises(SpecError):
        check_slug(slug)


@pytest.mark.parametrize(
    "source",
    [
        SOURCE,
        Source(image="127.0.0.1:5000/a/b@sha256:" + "0" * 64),
        Source(archive=Path("/x/.. strange\nname.tar")),
        Source(build=BuildRequest(context=Path("/"))),
    ],
)
def test_made_up_names_are_valid_and_differ(source: Source) -> None:
    assert check_slug(make_slug(source)) != make_slug(source)


@pytest.mark.parametrize(
    "bad",
    [{"slug": "a b"}, {"workdir": "relative"}, {"user": "-x"}, {"cpus": 0}, {"cpus": 256}, {"memory_mib": 1}],
)
def test_a_spec_checks_itself(bad: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        BottleSpec(**{"source": SOURCE, "slug": "ok", **bad})


def test_a_spec_does_not_show_its_variables() -> None:
    assert "hunter2" not in repr(BottleSpec(SOURCE, "ok", env=(("PASSWORD", "hunter2"),)))


def test_no_source_or_two_are_refused() -> None:
    with pytest.raises(UsageError):
        Source()
    with pytest.raises(UsageError):
        Source(image="a", archive=Path("b"))


@pytest.mark.parametrize(
    ("item", "port"),
    [
        ("8080:3000", Port(8080, 3000)),
        ("3000", Port(0, 3000)),
        ("127.0.0.1:8080:3000", Port(8080, 3000)),
        ("127.0.0.1::3000", Port(0, 3000)),
        ("localhost:8080:3000/tcp", Port(8080, 3000)),
    ],
)
def test_a_port_is_read_as_docker_has_it(item: str, port: Port) -> None:
    assert parse_ports([item]) == (port,)


@pytest.mark.parametrize(
    "item",
    [
        *(
            "",
            "x",
            "0",
            "8080:0",
            "70000",
            "80:70000",
            "0.0.0.0:80:80",
            "[::1]:80:80",
            "80/udp",
            "1:2:3:4",
            "-1",
        ),
        *("9" * 200, "80:80\n", "8000-8010"),
    ],
)
def test_what_is_no_port_of_this_machine_alone_is_refused(item: str) -> None:
    with pytest.raises(SpecError, match="cannot publish"):
        parse_ports([item])


def test_a_host_port_that_is_published_twice_is_refused() -> None:
    assert len(parse_ports(["80", "81", "80"])) == 2
    with pytest.raises(SpecError, match="published twice"):
        parse_ports(["8080:80", "8080:81"])


def test_a_host_port_of_zero_becomes_a_free_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
    any_, named, more = allocate_host_ports([Port(0, 80), Port(free, 81), Port(0, 82)])
    assert (any_.guest, named, more.guest) == (80, Port(free, 81), 82)
    assert len({0, any_.host, named.host, more.host}) == 4


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - which takes the loopback's as well
def test_a_host_port_in_use_is_refused_with_its_number(address: str) -> None:
    with socket.create_server((address, 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(SpecError) as told:
            allocate_host_ports([Port(number, 80)])
    assert told.value.message == f"cannot publish {number}:80"
    assert f"host port {number}: " in told.value.why
    assert "write 80 for any free port" in told.value.next_step


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"A": "x" * (127 << 10)}, "A is too large"),
        ({"A": "é" * (64 << 10)}, "A is too large"),  # bytes count, not characters
        ({f"A{n}": "x" * (100 << 10) for n in range(11)}, "all of them"),
        ({"A": "a\0b"}, "invalid variable"),
        ({"": "x"}, "invalid variable"),
        ({"A B": "x"}, "invalid variable"),
        ({"A=B": "x"}, "invalid variable"),
        ({"A\n": "x"}, "invalid variable"),
        ({"\udc80": "x"}, "invalid variable"),
        ({"A": "\udcff"}, "not UTF-8"),
        ({"B": "\ud800"}, "not UTF-8"),  # as JSON may have it
    ],
)
@pytest.mark.parametrize("backend", ["docker", "smolmachines"])
def test_variables_that_no_program_can_have_are_refused(
    backend: BackendName, env: dict[str, str], told: str
) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        BottleSpec(SOURCE, "ok", env=tuple(env.items()), backend=backend)
    assert len(str(caught.value)) < 500


def test_large_variables_pass() -> None:
    env = {f"A{n}": "x" * ((127 << 10) - 10) for n in range(8)}
    assert BottleSpec(SOURCE, "ok", env=tuple(env.items())).env == tuple(env.items())


def test_names_of_images_pass() -> None:
    assert BottleSpec(SOURCE, "ok", env=(("a.b", "x"),)).env == (("a.b", "x"),)


@pytest.mark.parametrize(
    "name", ["PATH", "DOCKER_HOST", "https_proxy", "NO_PROXY", "SSL_CERT_FILE", "GODEBUG"]
)
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "x" * (40 << 10)])
def test_a_name_that_the_engines_program_reads_holds_one_short_line(name: str, value: str) -> None:
    with pytest.raises(SpecError, match=f"{name} must be one line"):
        BottleSpec(SOURCE, "ok", env=((name, value),), backend="docker")
    assert BottleSpec(SOURCE, "ok", env=((name, "short"), ("MINE", value)), backend="docker").env
