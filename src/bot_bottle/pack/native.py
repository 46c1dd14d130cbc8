"""The native packer: flattens an image, writes an artifact, and reports what a microVM cannot represent.

Only imported when an artifact has to be made.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType

from bot_bottle.errors import ImageError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress, human_bytes
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import Image
from bot_bottle.image.archive_index import shown
from bot_bottle.pack.agent_parts import SEGMENTS
from bot_bottle.pack.artifact import PackResult, pack_native
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.pack.layer_headers import HeaderStore, reuse_headers
from bot_bottle.pack.options import PackOptions
from bot_bottle.pack.precompress import Ahead
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, Flattened, flatten
from bot_bottle.scan.credential_files import LARGEST, in_file, in_variables, is_known
from bot_bottle.smolmachine.writer import threads
from bot_bottle.structs import replace
from bot_bottle.vm.guest_rootfs import find_guest

_SHOWN = 5  # secrets in one warning


class NativePacker:
    """Makes artifacts of images of at most `max_image_size` bytes. Temporary files are in `run`.

    `ahead` may compress the layers of an archive while the engine writes it. A context manager.
    """

    def __init__(self, run: RunDir, progress: Progress, max_image_size: int) -> None:
        self._progress = progress
        self._max_image_size = max_image_size
        self._store = HeaderStore(paths.headers_dir(), run.folder("headers"))
        self._parts = Parts(paths.artifacts_dir(), list(paths.agents_dir().glob(f"*/{SEGMENTS}")))
        self.ahead = Ahead(self._parts, run.folder("ahead"), max_image_size)
        self._using = ExitStack()

    def __enter__(self) -> NativePacker:
        with ExitStack() as stack:
            stack.enter_context(self._parts)
            stack.enter_context(self.ahead)
            self._using = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._using.__exit__(kind, error, trace)

    def pack(self, image: Image, options: PackOptions, out: Path) -> PackResult:
        """Write the artifact and return its description. Raises BottleError."""
        with self._progress.stage("pack") as stage, self._store.using():
            stage.say("reading the layers")
            image = reuse_headers(self.ahead.marked(image), self._store)
            root = self._flatten(image)
            stage.say("compressing the root filesystem")
            packed = pack_native(
                image,
                root,
                find_guest(),
                out,
                flatten_version=FLATTEN_VERSION,
                options=options,
                parts=self._parts,
                on_bytes=stage.advance,
            )
            self._store.publish()
            stage.conclude(f"natively, {root.entries} entries")
        self._warn_of_secrets(image, root)
        for loss in root.losses:
            self._progress.note(
                f"{'':<8} not in a microVM: {loss.count} x {loss.kind}, such as {loss.examples[0]}"
            )
        return replace(packed, unsupported=root.losses)

    def _flatten(self, image: Image) -> Flattened:
        """Flatten an image, unless it exceeds the size limit. Nothing has been written then."""
        grown = 0

        def grow(count: int) -> None:
            nonlocal grown
            grown += count
            if grown > self._max_image_size:
                raise ImageError(
                    "the image is larger than allowed",
                    why=f"it has more than {human_bytes(self._max_image_size)}",
                    next_step="raise the limit with --max-image-size, if the size is right",
                )

        # reading the headers of compressed layers means decompressing them, which releases Python's lock
        beside = threads() if any(layer.compressed for layer in image.layers) else 1
        root = flatten(image, verify=False, threads=beside, on_bytes=grow)
        grown = 0
        grow(root.size)  # holes count too: they are read and written like other data
        return root

    def _warn_of_secrets(self, image: Image, root: Flattened) -> None:
        """Warn of credential files and variables in the artifact, which are found at once."""
        found = [str(each) for each in in_variables(image.config.env, "config")]
        with root.data() as data:
            for raw, node in root.files():
                path = raw.decode("utf-8", "replace")
                if 0 < node.size <= LARGEST and is_known(path):
                    content = b"".join(data.read(node, 0, node.size))
                    found += [shown(path) for _ in islice(in_file(path, content), 1)]
        if found:
            self._progress.warn(
                f"secrets seem to be in the artifact: {', '.join(found[:_SHOWN])}"
                f"{', ...' if len(found) > _SHOWN else ''}; see bottle scan"
            )
