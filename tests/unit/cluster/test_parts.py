"""The parts of a fan on a cluster that need no cluster."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli.main import bottle
from bot_bottle.cluster.address import Address, is_loopback, parse_address
from bot_bottle.cluster.node import Ability, ray_options
from bot_bottle.cluster.order import Packed, Values, unpacked
from bot_bottle.cluster.pieces import SIZE, Piece, Spool, read_pieces, receive
from bot_bottle.cluster.resources import needs_of
from bot_bottle.cluster.ring import Ring
from bot_bottle.cluster.seal import Box, seal
from bot_bottle.engine.source import Source
from bot_bottle.errors import ClusterError, UsageError


def test_a_cluster_is_here_or_at_a_host_and_port() -> None:
    assert parse_address("ray") == Address()
    assert parse_address("ray").ray == "auto"
    assert parse_address("ray://head.example.org:10001") == Address("head.example.org", 10001)
    assert str(parse_address("ray://[::1]:1")) == "ray://[::1]:1"


@pytest.mark.parametrize(
    "text", ["", "auto", "ray://", "ray://head", "head:1", "ray://a b:1", "ray://h:70000"]
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the address of a cluster"):
        parse_address(text)


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.0.0.2", "[::1]", "::1", "localhost"]))
    assert not any(map(is_loopback, ["10.0.0.1", "head", "127.0.0.1.example.org"]))


def test_a_ring_drops_the_oldest_lines_and_counts_them() -> None:
    ring = Ring(most=100)
    lines = [b"line %03d\n" % number for number in range(50)]
    for line in lines:
        ring.add(line)
    everything = b"".join(lines)
    assert ring.end == len(everything)
    start, data = ring.read(0, 1000)
    assert 0 < start <= len(everything) - 50
    assert data == everything[start:]
    assert data.startswith(b"line ")
    assert ring.read(ring.end - 4, 1000) == (ring.end - 4, everything[-4:])


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE])
def test_a_file_arrives_as_it_was(size: int, tmp_path: Path) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    spool, offset = Spool(tmp_path), 0
    assert spool.read("file", 0) is None
    for piece in read_pieces(io.BytesIO(content)):
        spool.add("file", offset, piece)
        offset += len(piece.data)

    def fetch(offset: int) -> Piece:
        piece = spool.read("file", offset)
        assert piece is not None
        return piece

    receive(fetch, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


@pytest.mark.parametrize(("digest", "wanted"), [("0" * 64, ""), ("", "0" * 64)])
def test_another_file_than_was_sent_is_removed(digest: str, wanted: str, tmp_path: Path) -> None:
    (data, end) = read_pieces(io.BytesIO(b"data"))
    pieces = {0: data, 4: Piece(b"", digest or end.digest)}
    with pytest.raises(ClusterError, match="not what was sent"):
        receive(lambda offset: pieces[offset], tmp_path / "out", digest=wanted)
    assert not (tmp_path / "out").exists()


def test_more_than_is_taken_is_removed(tmp_path: Path) -> None:
    endless = itertools.repeat(Piece(bytes(1000)))
    with pytest.raises(ClusterError, match=r"larger than 5\.0 kB"):
        receive(lambda _: next(endless), tmp_path / "out", most=5000)
    assert not (tmp_path / "out").exists()


def test_values_are_sealed_for_one_key() -> None:
    values = Values({"A": "some value"}, {"KEY": "another value"})
    box, other = Box(), Box()
    sealed = seal(values, box.public)
    assert b"value" not in sealed
    assert box.open(sealed) == values
    assert seal(values, box.public) != sealed
    for damaged in (sealed[:-1], sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:], b""):
        with pytest.raises(ClusterError):
            box.open(damaged)
    with pytest.raises(ClusterError):
        other.open(sealed)


LARGE = {"CPU": 8.0, "memory": 16.0 * 2**30}


def spec(**more: object) -> BottleSpec:
    return BottleSpec(source=Source(image="x"), slug="try", backend="docker", memory_mib=1024, **more)  # type: ignore[arg-type]


def test_an_order_of_another_version_is_refused() -> None:
    with pytest.raises(ClusterError, match="another version"):
        unpacked(Packed(b"cbot_bottle.cluster.order\nOlder\n."))


def test_a_bottle_takes_what_it_needs() -> None:
    needs = needs_of(spec(cpus=3), [{**LARGE, "container": 2.0}])
    assert needs.options() == {"num_cpus": 3, "memory": 1 << 30, "resources": {"container": 1}}
    assert needs_of(spec(), [{**LARGE, "container": 2.0}]).cpus == 1


def test_nodes_that_cannot_run_it_are_named() -> None:
    with pytest.raises(ClusterError, match="announces container") as refused:
        needs_of(spec(), [{**LARGE, "kvm": 4.0}])
    assert refused.value.why == "announced: kvm"
    with pytest.raises(ClusterError, match="large enough") as refused:
        needs_of(spec(cpus=9), [{**LARGE, "container": 2.0}])
    assert refused.value.why == "8 CPUs, 16384 MiB, container: 2"


def test_a_node_announces_what_it_runs() -> None:
    abilities = [Ability("containers", "container", "docker"), Ability("microVMs", "", "no QEMU")]
    assert ray_options(abilities, 3) == ["--num-cpus=3", '--resources={"container":3}']
    (only,) = ray_options(abilities, None)
    assert json.loads(only.removeprefix("--resources="))["container"] >= 1


def test_options_of_clusters_need_one() -> None:
    done = CliRunner().invoke(bottle, ["fan", "2", "--retries", "1", "--image", "x", "--", "true"])
    assert isinstance(done.exception, UsageError)
    assert "--retries needs --on" in str(done.exception)
