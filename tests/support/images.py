"""Build contexts that need no registry: a root filesystem of Debian's static busybox, FROM scratch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
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


# what bottles are made of in tests: every way for a layer to change what is below it
BOTTLE_DOCKERFILE = """\
FROM scratch AS base
COPY rootfs /
ENV PATH=/usr/bin:/bin
RUN mkdir -p /t/gone /t/opaque /t/becomes-file /home/agent \\
    && echo a > /t/gone/file && echo b > /t/opaque/below && chmod 700 /t/opaque \\
    && echo d > /t/becomes-folder \\
    && echo c > /t/original && ln /t/original /t/second && ln -s original /t/relative \\
    && ln -s /etc/passwd /t/absolute && ln -s / /t/to-root && ln -s ../../../../etc/passwd /t/over \\
    && chown 1000:1000 /home/agent
RUN rm -r /t/gone /t/becomes-file /t/becomes-folder /t/opaque \\
    && echo file > /t/becomes-file && mkdir /t/becomes-folder && echo e > /t/becomes-folder/inside \\
    && mkdir /t/opaque && echo new > /t/opaque/above && ln /t/original /t/third
RUN touch /t/setuid /t/setgid && chown 1000:54321 /t/setuid && chmod 4755 /t/setuid && chmod 2755 /t/setgid \\
    && mkdir /t/sticky && chmod 1777 /t/sticky && head -c 3000000 /dev/zero > /t/zeros \\
    && printf x > "$(printf '/t/new\\nline')" && printf y > "$(printf '/t/raw\\377name')" \\
    && touch /t/large-owner && chown 2147483648:2147483648 /t/large-owner
ENV GREETING="two words" QUOTE='it"s' EMPTY=
WORKDIR /home/agent
USER agent
ENTRYPOINT ["sh", "-c", "echo ran >> /tmp/runs; cat /tmp/runs; echo \\"$0 $1\\""]
CMD ["from", "cmd"]
"""


def copy_with_libraries(name: str, root: Path) -> Path:
    """Copy a program of this machine into a root filesystem's /usr/bin, and what it loads beside it."""
    program = shutil.which(name)
    assert program, f"{name} is not installed; scripts/setup test installs it"
    needed = subprocess.run(["ldd", program], capture_output=True, check=True, timeout=10).stdout.decode()
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    for library in [word for word in needed.split() if word[0] == "/"]:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    return Path(shutil.copy(program, root / "usr/bin" / Path(program).name))


def docker_registry_context(folder: Path) -> Path:
    """Make a folder into a build context of Debian's docker-registry, made as the registry's own image is."""
    copy_with_libraries("docker-registry", folder / "root").rename(folder / "registry")
    (folder / "config.yml").write_text(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: ':5000'}\n"
    )
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY root /\nCOPY registry /registry\nCOPY config.yml /config.yml\n"
        'EXPOSE 5000\nENTRYPOINT ["/registry", "serve", "/config.yml"]\n'
    )
    return folder


def copy_python(root: Path) -> str:
    """Copy this machine's Python and its library into a root filesystem, and give its path there."""
    program, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    unneeded = ("test", "tests", "site-packages", "dist-packages", "idlelib", "config-*", "__pycache__")
    ignored = shutil.ignore_patterns(*unneeded)
    shutil.copytree(library, root / "python/lib" / library.name, ignore=ignored, symlinks=True)
    (root / "python/bin").mkdir()
    shutil.copy(program, root / "python/bin/python3")
    for each in (program, *(library / "lib-dynload").glob("*.so")):
        needed = subprocess.run(["ldd", each], capture_output=True, check=True, timeout=10).stdout.decode()
        for name in [word for word in needed.split() if word[0] == "/"]:
            own = name.startswith(("/lib", "/usr/lib"))  # what is elsewhere goes where the loader looks too
            if not (copied := root / (name.lstrip("/") if own else f"usr/lib/{Path(name).name}")).exists():
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(name, copied)
    return "/python/bin/python3"
