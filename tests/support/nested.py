"""This machine once more, emulated, with a KVM that can boot guests: where bottle runs as on a good machine.

The machine's own root file system is the emulated one's, read-only under an overlay, so that the programs and
the package under test are the very same. What has to be fast is on a disk of its own, at /fast.

Jobs give their guests one processor: with more, an emulated one often ends in the middle of its boot.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.vm.emulated.host import prepare_emulation
from bot_bottle.vm.emulated.kernel import busybox
from bot_bottle.vm.emulated.qemu import KERNEL_ARGUMENTS, find_qemu, processor_argv
from bot_bottle.vm.smolvm import find_smolvm
from tests.support.engines import Docker

_INIT = """\
#!/bin/sh
export PATH=/bin
mount -t tmpfs rw /rw && mkdir /rw/upper /rw/work
p9=trans=virtio,version=9p2000.L,msize=1048576
mount -t 9p -o "$p9,ro,cache=loose" machine /machine
mount -t 9p -o "$p9" results /results
mount -t overlay -o lowerdir=/machine,upperdir=/rw/upper,workdir=/rw/work overlay /new
mkdir -p /new/fast /new/results /new/old
mount --bind /fast /new/fast && mount --bind /results /new/results
for d in proc sys dev; do mount --move /$d /new/$d; done
mount -t tmpfs run /new/run
mkdir -p /new/dev/pts /new/dev/shm /new/dev/net
mount -t devpts pts /new/dev/pts && mount -t tmpfs shm /new/dev/shm
mount -t cgroup2 cgroup /new/sys/fs/cgroup
ip link set lo up; chmod 666 /new/dev/kvm
cd /new && pivot_root . old
chroot . /bin/sh /results/job > /dev/ttyS0 2>&1 < /dev/null
/old/bin/busybox poweroff -f
"""


def run(
    job: str,
    results: Path,
    fast: Path,
    *,
    timeout: float,
    memory: str = "6G",
    kernel: str = "",
    processors: int = 1,
) -> str:
    """Run a shell script there as root and give what the console said.

    `results` is its /results, which it may write to; of `fast` it finds a copy as /fast; `kernel` are more
    arguments for its kernel; `processors` are as qemu.py says.
    """
    image, initramfs, _ = prepare_emulation(Progress())
    (results / "job").write_text(job)
    disk = _disk(results.with_name(results.name + ".disk"), fast)
    argv = [str(find_qemu()), *processor_argv(processors), "-m", memory]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
    argv += ["-kernel", str(image), "-initrd", str(initramfs), "-append", f"{KERNEL_ARGUMENTS} {kernel}"]
    argv += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    share = "mount_tag={},security_model=none,multidevs=remap"
    argv += ["-virtfs", f"local,path=/,readonly=on,{share.format('machine')}"]
    argv += ["-virtfs", f"local,path={results},{share.format('results')}"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False, text=True
        )
    finally:
        disk.unlink()
    return done.stdout + done.stderr


def provisions(docker: Docker, image: str, tmp_path: Path) -> tuple[Path, Path]:
    """Make a folder for results, which has the image in image.tar, and one for /fast, with smolvm made ready.

    That is made here, as it takes minutes there.
    """
    results, fast = tmp_path / "results", tmp_path / "fast"
    results.mkdir()
    docker.docker("save", "--output", str(results / "image.tar"), image)
    find_smolvm(Progress())
    (fast / "cache").mkdir(parents=True)
    subprocess.run(["cp", "-a", "--sparse=always", paths.cache_dir() / "smolvm", fast / "cache"], check=True)
    fast.chmod(0o755)  # smolvm's machines have users of their own, who have to reach it
    return results, fast


def _disk(path: Path, fast: Path) -> Path:
    root = path.with_suffix(".root")
    for name in ("bin", "dev", "proc", "sys", "rw", "machine", "results", "new"):
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox(), root / "bin/busybox")
    for applet in subprocess.run([busybox(), "--list"], capture_output=True, check=True).stdout.split():
        if applet != b"busybox":
            (root / "bin" / applet.decode()).symlink_to("busybox")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    # its sparse files stay sparse
    subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", fast, root / "fast"], check=True)
    with path.open("wb") as file:
        file.truncate(60 << 30)
    options = ["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0"]
    env = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    subprocess.run(["mke2fs", *options, "-d", root, path], check=True, env=env)
    shutil.rmtree(root)
    return path
