"""How an image becomes an artifact, and what of that decides the artifact's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from bot_bottle.errors import SpecError, UsageError
from bot_bottle.host.sizes import parse_memory_size

if TYPE_CHECKING:
    from pathlib import Path

    from bot_bottle.cache.entry import Entry
    from bot_bottle.cache.key import Key
    from bot_bottle.engine.engine import Engine
    from bot_bottle.engine.source import Source
    from bot_bottle.host.progress import Progress
    from bot_bottle.image.spec import Digest
    from bot_bottle.pack.converter import Conversion, Converter
    from bot_bottle.vm.accel import Accel

PackerName = Literal["native", "smolvm"]
Via = Literal["archive", "registry"]
Transport = Literal["auto", "direct", "save", "push"]

MAX_IMAGE_SIZE = "64g"
CONVERT_OPTIONS = ("engine", "packer", "accel", "max_image_size")  # those that every command has


class Shared(Protocol):
    """A cache of other machines' artifacts, behind the cache. Nothing that is wrong with it raises."""

    def fetch(self, key: Key, out: Path, progress: Progress) -> Digest | None:
        """Write the artifact of a key to the new file `out`; return its digest, or None if there is none."""

    def offer(self, entry: Entry, progress: Progress) -> None:
        """Put an artifact there, if that was asked for."""


class ConvertOptions(Struct, frozen=True):
    """How an image becomes an artifact. `engine` is a choice as in `find_engine`. Raises UsageError.

    `accel` is for smolvm's packer, which boots a machine. `via` is for it too; None is an archive where
    smolvm takes one, else a registry. `transport` is how the image leaves the engine (see export.py); smolvm
    cannot read an engine's storage. `max_image_size` (bytes; None: MAX_IMAGE_SIZE) is for the native packer.
    `shared` is asked for what the cache lacks. `on_conversion` is called with each conversion before it is
    used; what it raises ends the command. `found` is the artifact, where it is chosen already, and
    `found_engine` the engine, where it has answered already.
    """

    engine: str | None = None
    packer: PackerName = "native"
    accel: Accel = "auto"
    via: Via | None = None
    transport: Transport = "auto"
    max_image_size: int | None = None
    shared: Shared | None = None
    on_conversion: Callable[[Source, Conversion, Converter], None] | None = None
    found: Conversion | None = None
    found_engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.packer != "smolvm" and self.via:
            raise UsageError("--via only works with --packer smolvm")
        if self.packer == "smolvm" and self.transport == "direct":
            raise UsageError("--transport direct only works with the native packer; smolvm reads archives")
        if self.packer == "smolvm" and self.transport == "push" and self.via != "registry":
            raise UsageError("--transport push needs a registry", next_step="add --via registry")

    @property
    def largest_image(self) -> int:
        """The limit of an image's size in bytes."""
        return parse_image_size(MAX_IMAGE_SIZE) if self.max_image_size is None else self.max_image_size


class PackOptions(Struct, frozen=True):
    """Options of the native packer. All but the last two decide the artifact's bytes.

    `name` is the image's name as `smolvm pack run --info` shows it; without one it is made from the image id.
    `cpus` and `mem` (MiB) are defaults of a machine made from the artifact; the values here are smolvm's own.
    `created` is a time in RFC 3339 form. `foreign` allows an image of another architecture than this
    machine's.
    """

    name: str = ""
    cpus: int = 4
    mem: int = 8192
    created: str = ""
    foreign: bool = False
    threads: int | None = None

    def key_parts(self) -> tuple[tuple[str, str], ...]:
        """Return the options that decide the bytes and are not the default, as pairs sorted by name."""
        usual = PackOptions()
        names = ("cpus", "created", "mem", "name")
        return tuple(
            (name, str(getattr(self, name))) for name in names if getattr(self, name) != getattr(usual, name)
        )


def source_date(environment: Mapping[str, str]) -> str:
    """Return the time in SOURCE_DATE_EPOCH in RFC 3339 form, or "" if it is not set. Raises UsageError."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return ""
    try:
        return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is not a time: {text[:40]!r}",
            next_step="set it to seconds since 1970, or unset it",
        ) from error


def parse_image_size(text: str) -> int:
    """Parse the limit of an image's size, written as in docker, into bytes. Raises SpecError."""
    size = parse_memory_size(text)
    if not size:
        raise SpecError(f"invalid image size: {text[:50]!r}", next_step="write it as 500m or 64g")
    return size
