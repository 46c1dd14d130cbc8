"""The packers: they write an artifact from an image.

The native packer writes the file itself: no registry, no KVM, no virtual machine. The other runs smolvm, with
whose artifacts those of the first are compared.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bot_bottle.errors import ArtifactError, ImageError, UsageError
from bot_bottle.host.signals import defer_signals
from bot_bottle.image.archive import Image
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.pack.agent_parts import segment_maker
from bot_bottle.pack.chunk_index import PartList, Parts
from bot_bottle.pack.options import PackOptions
from bot_bottle.rootfs.chunks import LayerData, Stretch
from bot_bottle.rootfs.flatten import Flattened
from bot_bottle.rootfs.smolvm_compat import Unsupported
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.frames import holds, segment
from bot_bottle.smolmachine.manifest import Asset, Assets, LayerAsset, Manifest
from bot_bottle.smolmachine.writer import PART, Make, Part, Writer, sink, threads
from bot_bottle.vm.guest_rootfs import MEMBER, Guest

_NAME_MAX = 512


class PackResult(Struct, frozen=True):
    """An artifact that was made: size in bytes, SHA-256, the manifest in it, and what the image has besides.

    What is `unsupported` cannot be in a microVM.
    """

    size: int
    digest: Digest
    manifest: Manifest
    unsupported: tuple[Unsupported, ...] = ()


def pack_native(
    image: Image,
    root: Flattened,
    guest: Guest,
    out: BinaryIO | Path,
    *,
    flatten_version: int,
    options: PackOptions | None = None,
    parts: Parts | None = None,
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> PackResult:
    """Write an image's root filesystem and the guest files to a new artifact, in one pass.

    `out` is a new file's path, or a binary file open for writing. The same image, guest and options give the
    same bytes, with or without the `parts` of other artifacts; with them, a list of its own parts is written
    beside the file. `on_bytes` is called with the number of bytes of `root` that were written, `root.size` in
    all. A file that could not be finished is removed.

    Raises ImageError for an image that this machine cannot run, DiskFullError with the space that is needed,
    ArtifactError when it cannot be written for another reason.
    """
    options = options or PackOptions()
    platform = _platform(image.config.platform, foreign=options.foreign)
    layer = layer_id(image.config.diff_ids, flatten_version)
    assets = Assets(
        agent_rootfs=Asset(MEMBER, guest.size),
        layers=(LayerAsset(f"sha256:{layer}", f"layers/{layer}.tar", root.size),),
    )
    manifest = _manifest(image, guest, options, platform, assets)
    manifest.to_json()  # an invalid manifest fails now, not after a gigabyte
    with (
        sink(out, guest.size + root.size) as output,
        Writer(output, threads=options.threads or threads(), copy=output.copy) as writer,
    ):
        listed = PartList()
        check = _write_guest(writer, guest, parts, listed)
        output.consumed += guest.size
        writer.begin(assets.layers[0].path, root.size)

        def written(count: int) -> None:
            output.consumed += count
            on_bytes(count)

        write_root(writer, root, parts, listed, written)
        done = writer.finish(manifest)
        check()
    if parts is not None and isinstance(out, Path):
        listed.write(out, done.size, done.footer.checksum)
    return PackResult(done.size, done.digest, manifest)


def _write_guest(writer: Writer, guest: Guest, parts: Parts | None, listed: PartList) -> Callable[[], object]:
    """Write the guest files; return a function that lists them, or raises SmolvmError if they are damaged.

    Those of another artifact were verified when that was made.
    """
    writer.begin(MEMBER, guest.size)
    # without parts, the guest's file need not be read for a key
    kept = parts.read(_key(guest)) if parts else None
    if kept is not None and holds(kept.data, guest.size):
        writer.add_segment(lambda: kept, guest.size, partial(listed.add, _key(guest)))
        return lambda: None
    check = writer.beside(guest.check)
    place: list[int] = []
    writer.add_frames(guest.frames(), guest.size, lambda *written: place.extend(written))

    def checked() -> None:
        check.result()
        listed.add(_key(guest), *place)

    return checked


def _key(guest: Guest) -> str:
    return f"guest {guest.digest}"


def layer_id(diff_ids: Iterable[Digest], flatten_version: int) -> str:
    """Return the id of a flattened layer before it is written: 64 hex digits, a hash of what it is made from.

    smolvm identifies merged layers in the same way: by their input, not by their content.
    """
    text = "".join(f"{part}\n" for part in (f"flatten {flatten_version}", *diff_ids))
    return hashlib.sha256(text.encode()).hexdigest()


def guest_name(name: str) -> str:
    """Return a name for an image that smolvm accepts: `A-Za-z0-9._/:@-`, the first a letter or digit."""
    name = re.sub(r"[^A-Za-z0-9._/:@-]", "-", name)
    name = re.sub(r"\.{2,}", ".", name)  # smolvm refuses ".." together with "/"
    return re.sub(r"\A[^A-Za-z0-9]+", "", name)[:_NAME_MAX]


def smolvm_pack_argv(image: str | Path, out: Path) -> tuple[str, ...]:
    """Return smolvm's arguments (after its own name) for packing an image archive or a registry's image.

    smolvm takes a name as one of a local archive when it ends in `.tar` and is absolute. Raises UsageError.
    """
    if isinstance(image, Path) and image.suffix != ".tar":
        raise UsageError(f"smolvm only accepts archives named *.tar: {image.name}", next_step="rename it")
    named = str(image.absolute()) if isinstance(image, Path) else image
    return ("pack", "create", "--image", named, "-o", str(out.absolute()))


def pack_smolvm(run: Callable[[Sequence[str]], None], image: str | Path, out: Path) -> PackResult:
    """Make an artifact with smolvm from a docker-save or OCI archive, or from a registry's image.

    `run` runs smolvm with the arguments that it gets. smolvm writes a program and the artifact beside it;
    only the artifact is kept, as `out`. Raises what `run` raises, and ArtifactError when smolvm wrote no
    sound file.
    """
    with _scratch(out.parent) as folder:
        program = folder / "packed"
        run(smolvm_pack_argv(image, program))
        made = program.with_name("packed.smolmachine")
        if not made.is_file():
            raise ArtifactError("smolvm reported success, but wrote no artifact", why=str(made))
        artifact = artifact_format.checksum(made)
        digest = artifact_format.digest_of(made)
        made.replace(out)
    return PackResult(artifact.size, digest, artifact.manifest)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    with defer_signals():
        folder = Path(tempfile.mkdtemp(prefix="pack-", dir=parent))
    try:
        yield folder
    finally:
        with defer_signals():
            shutil.rmtree(folder, ignore_errors=True)


def _platform(platform: Platform, *, foreign: bool) -> str:
    machine = Platform.of_this_machine()
    if platform.os != machine.os or (platform.architecture != machine.architecture and not foreign):
        raise ImageError(
            f"the image is for {platform}, and a microVM on this machine runs {machine}",
            next_step=f"build it for {machine} (`docker build --platform {machine}`), or pull that one "
            f"(`docker pull --platform {machine} NAME`)",
        )
    return f"{platform.os}/{platform.architecture}"


def _manifest(image: Image, guest: Guest, options: PackOptions, platform: str, assets: Assets) -> Manifest:
    config = image.config
    return Manifest(
        image=guest_name(options.name) or f"bot-bottle/{image.image_id.hex[:16]}",
        digest=str(image.image_id),
        platform=platform,
        cpus=options.cpus,
        mem=options.mem,
        assets=assets,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        env=tuple(entry for entry in config.env if "=" in entry),  # as container engines do
        workdir=config.workdir,
        user=config.user,
        image_size=assets.layers[0].size,
        network=False,
        host_platform=platform,
        created=options.created,
        smolvm_version=guest.version,
    )


def write_root(
    writer: Writer,
    root: Flattened,
    parts: Parts | None,
    listed: PartList,
    on_bytes: Callable[[int], None],
) -> None:
    """Write all of `root`, and list its parts. The bytes are the same without `parts`.

    `on_bytes` is called with the number of bytes of `root` that were written. Raises ImageError when a layer
    can no longer be read, or does not have its digest.
    """

    def written(key: str, size: int, offset: int, length: int) -> None:
        listed.add(key, offset, length)
        on_bytes(size)

    with root.data() as data:
        for stretch in root.stretches():
            size = stretch.size
            if stretch.key is None or size > PART:
                for piece in stretch.pieces(data):
                    writer.add(piece)
                    on_bytes(len(piece))
            else:
                key = stretch.key()
                make = _segment_maker(root, stretch, data, parts, key)
                writer.add_segment(make, size, partial(written, key, size))
        data.finish()


def _segment_maker(root: Flattened, stretch: Stretch, data: LayerData, parts: Parts | None, key: str) -> Make:
    """Return a function that makes a chunk's segment in a thread that cannot read layers in order."""
    if parts is not None and parts.holds(key):
        return partial(_reused, root, stretch, parts, key)
    return segment_maker(stretch, b"".join(stretch.pieces(data)), parts)


def _reused(root: Flattened, stretch: Stretch, parts: Parts, key: str) -> bytes | Part:
    part = parts.read(key)
    if part is not None and holds(part.data, stretch.size):
        return part
    with root.data() as data:  # removed a moment ago, or damaged
        made = segment(b"".join(stretch.pieces(data)))
        data.finish()
        return made
