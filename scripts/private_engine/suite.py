"""Programs of another Debian suite, unpacked beside the system and not installed.

apt fetches the packages and verifies them (the suite's signature, each package's checksum), with lists and
settings in a folder of its own: what apt knows of this machine's packages is neither used nor changed. The
programs need newer libraries than the machine may have. These are unpacked with them, and each program is
pointed to them by patchelf, so that it runs as any other program of this machine does: no chroot, no mounts.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from private_engine.failure import Failure
from private_engine.places import CACHE, find, locked, remove, write

SUITES = CACHE / "suites"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "BOT_BOTTLE_DEBIAN_MIRROR"
PACKAGES = (
    *("docker.io", "docker-cli", "docker-buildx", "containerd", "runc"),
    *("podman", "conmon", "netavark", "catatonit"),
)
# of all that these depend on: libraries, the settings of podman, the init of docker. Not the system's tools
NEEDED = re.compile(r"lib(?!c-gconv|systemd-shared|pam)|golang-github-containers-|tini")
EMULATORS = ("qemu-system-x86",)
NEEDED_BY_EMULATORS = re.compile(
    r"lib(?!c-gconv|systemd-shared|pam)|qemu-system-(common|data)$|seabios$|zlib1g$"
)
PROGRAMS = ("bin", "sbin", "libexec", "lib/podman")
UNUSED = ("usr/share/doc*", "usr/share/man", "usr/share/locale", "usr/libexec/podman/podman-testing")


@dataclass(frozen=True)
class Suite:
    """Packages of a suite, such as `sid`, with what they need.

    `what` names them in messages; `label` tells those of one suite apart by their folders.
    """

    name: str
    packages: tuple[str, ...] = PACKAGES
    needed: re.Pattern[str] = NEEDED
    what: str = "container engines"
    label: str = ""

    @property
    def root(self) -> Path:
        """Return the folder in which the packages are unpacked."""
        return SUITES / f"{self.name}{self.label}"

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """Return the version of each package that is there; none if they are not."""
        try:
            stamp = json.loads((self.root / "stamp.json").read_text())
        except (OSError, ValueError):
            return {}
        # the programs name their libraries by absolute paths, which a checkout that was moved has no more
        good = Path(stamp["root"]).is_dir() and stamp["packages"] == list(self.packages)
        return stamp["versions"] if good else {}

    def program(self, name: str) -> str:
        """Return the path of one of its programs."""
        return shutil.which(name, path=self.path) or str(self.root / "usr" / "bin" / name)

    @property
    def path(self) -> str:
        """Return the folders of its programs, as PATH has them."""
        return ":".join(str(self.root / "usr" / place) for place in PROGRAMS)

    def get(self) -> None:
        """Fetch and unpack it, unless it is there."""
        if self.versions:
            return
        SUITES.mkdir(parents=True, exist_ok=True)
        with locked(SUITES / "lock"):
            del self.__dict__["versions"]  # somebody else may have made it meanwhile
            if self.versions:
                return
            for left in SUITES.glob(".*.part"):  # of one that was killed
                remove(left)
            with tempfile.TemporaryDirectory(
                dir=SUITES, prefix=f".{self.root.name}-", suffix=".part"
            ) as part:
                self._make(Path(part))
        del self.__dict__["versions"]

    def _make(self, part: Path) -> None:
        apt = Apt(part, self.name, self.packages)
        begun = time.monotonic()
        say(f"reading the package list of {self.name}")
        apt.run("apt-get", "update")
        versions = apt.needed(self.needed)
        say(f"fetching {apt.size(list(versions)) / 1e6:.0f} MB of {self.what} from {self.name}")
        (part / "packages").mkdir()
        apt.run("apt-get", "download", *versions, folder=part / "packages")
        root = part / "root"
        root.mkdir()
        for package in sorted((part / "packages").iterdir()):
            unpack(package, root)
        self._point_to_libraries(root)
        stamp = {
            "root": str(self.root),
            "packages": self.packages,
            "versions": {name: versions[name] for name in self.packages},
        }
        write(root / "stamp.json", json.dumps(stamp))
        remove(self.root)
        root.rename(self.root)
        say(f"... {time.monotonic() - begun:.0f} s")

    def _point_to_libraries(self, root: Path) -> None:
        """Let the programs in `root` take the loader and the libraries that will be in `self.root`."""
        patchelf = find("patchelf")
        if patchelf is None:
            raise Failure("patchelf is not installed", "run scripts/setup test")
        [loader] = [path for path in (root / "usr" / "lib").rglob("ld-linux-*.so.*") if not path.is_symlink()]
        loader = self.root / loader.relative_to(root)
        options = ["--set-interpreter", str(loader), "--force-rpath", "--set-rpath", str(loader.parent)]
        for place in PROGRAMS:
            for program in (root / "usr" / place).rglob("*"):
                if is_dynamic(program):
                    call([patchelf, *options, str(program)])


class Apt:
    """apt with lists, cache and settings below `folder`, for one suite of Debian."""

    def __init__(self, folder: Path, suite: str, packages: Sequence[str]) -> None:
        self.packages = packages
        if not KEYRING.exists():
            raise Failure(f"{KEYRING} is not there", "install debian-archive-keyring")
        mirror = os.environ.get(MIRROR) or debian_mirror()
        self.settings = folder / "apt.conf"
        for place in ("state/lists/partial", "cache/archives/partial"):
            (folder / place).mkdir(parents=True)
        (folder / "status").touch()  # no package is installed: what is needed is all named
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        self.settings.write_text(
            f'Dir::State "{folder}/state";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\n'
            f'Dir::Etc::SourceList "{folder}/sources.list";\n'
            'Dir::Etc::SourceParts "/dev/null";\n'
            'Dir::Etc::Preferences "/dev/null";\n'
            'Dir::Etc::PreferencesParts "/dev/null";\n'
            'APT::Install-Recommends "false";\n'
            'APT::Sandbox::User "";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "3";\n'
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )

    def run(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        """Run a program of apt in `folder`, and return what it says. Raises Failure."""
        return call([program, "--config-file", str(self.settings), "--quiet", *arguments], folder)

    def needed(self, others: re.Pattern[str]) -> dict[str, str]:
        """Return the packages to fetch and their versions: those that are named, and `others` they need."""
        planned = self.run("apt-get", "--simulate", "install", *self.packages)
        found = dict(re.findall(r"^Inst (\S+) \((\S+)", planned, re.MULTILINE))
        return {name: found[name] for name in found if name in self.packages or others.match(name)}

    def size(self, names: list[str]) -> int:
        """Return how many bytes these packages have."""
        uris = self.run("apt-get", "download", "--print-uris", *names)
        return sum(int(line.split()[2]) for line in uris.splitlines() if line.startswith("'"))


def debian_mirror() -> str:
    """Return the address from which this machine gets Debian's packages. Raises Failure."""
    listed = call(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Component: main"])
    if not listed.strip():
        raise Failure(
            "this machine has no package list of Debian",
            f"run apt-get update, or name a mirror of Debian: {MIRROR}=ADDRESS",
        )
    return listed.split()[0]


def unpack(package: Path, root: Path) -> None:
    """Unpack a package's files, and remove the package."""
    tar = ["tar", "-x", "-C", str(root), "--no-same-owner", *(f"--exclude=./{path}" for path in UNUSED)]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        unpacked = subprocess.run(tar, stdin=files.stdout, capture_output=True, text=True)
    if files.returncode or unpacked.returncode:
        raise Failure(f"{package.name} cannot be unpacked: {unpacked.stderr}", "look for space on the disk")
    package.unlink()


def is_dynamic(program: Path) -> bool:
    """Tell whether a file is a program that a loader has to load."""
    if program.is_symlink() or not program.is_file():
        return False
    with program.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return False
    asked = subprocess.run(["patchelf", "--print-interpreter", program], capture_output=True)
    return asked.returncode == 0


def call(argv: list[str], folder: Path | None = None) -> str:
    """Run a program and return what it says. Raises Failure with the end of its words."""
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"cannot run {argv[0]}: {error.strerror}", "use a Debian or Ubuntu machine") from None
    if done.returncode:
        words = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise Failure(f"{argv[0]} failed:\n{words}", "see what it says, and try again")
    return done.stdout


def say(words: str) -> None:
    """Say how far it is."""
    print(f"engine   {words}", file=sys.stderr, flush=True)
