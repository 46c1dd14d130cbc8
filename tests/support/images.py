"""Build contexts that need no registry: a root filesystem of Debian's static busybox, FROM scratch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DOCKERFILE = """\
FROM scratch
COPY rootfs /
ENV PATH=/usr/bin:/bin
CMD ["/bin/sh"]
"""


def busybox_rootfs(folder: Path) -> Path:
    """Fill a folder with a root filesystem that has a shell and the usual small programs."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is not installed; scripts/setup test installs it"
    for name in ("bin", "etc", "root", "tmp", "usr/bin", "var"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "root").chmod(0o700)
    shutil.copy(busybox, folder / "bin" / "busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, timeout=10)
    for applet in applets.stdout.decode().split():
        if applet != "busybox":
            (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\n"
    )
    (folder / "etc" / "group").write_text("root:x:0:\nagent:x:1000:\n")
    return folder


def busybox_context(folder: Path, dockerfile: str = DOCKERFILE) -> Path:
    """Make a folder into a build context whose `rootfs` is `busybox_rootfs`."""
    folder.mkdir(parents=True, exist_ok=True)
    busybox_rootfs(folder / "rootfs")
    (folder / "Dockerfile").write_text(dockerfile)
    return folder
