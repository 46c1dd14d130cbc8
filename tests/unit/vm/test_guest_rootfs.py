"""The guest files: the installed ones are found, and damage is said."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from bot_bottle.errors import SmolvmError
from bot_bottle.vm.guest_rootfs import Guest, find_guest, guest_version


def test_the_installed_guest_is_found() -> None:
    guest = find_guest()
    assert guest.version == guest_version() == metadata.version("smolmachines")
    data = b"".join(guest.read())
    assert guest.size == len(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("./sbin/init")
    guest.check()
    assert b"".join(guest.frames()) == guest.path.read_bytes()
    assert guest.digest == hashlib.sha256(guest.path.read_bytes()).hexdigest()


def test_finding_it_does_not_import_smolvm() -> None:
    program = (
        "import sys; from bot_bottle.vm.guest_rootfs import find_guest; find_guest().size; "
        "sys.exit('smol' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    """An interpreter that sees the project and what it needs, but not smolvm's package."""
    import isal
    import msgspec
    import zstandard

    import bot_bottle

    for module in (bot_bottle, isal, msgspec, zstandard):
        folder = Path(str(module.__file__)).parent
        (tmp_path / folder.name).symlink_to(folder)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from bot_bottle.vm.guest_rootfs import find_guest\n"
        "try: find_guest()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SmolvmError")
    assert "pip install smolmachines" in done.stdout


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_damaged_guest_is_refused(guest: Guest, keep: int) -> None:
    guest.path.write_bytes(guest.path.read_bytes()[:keep])
    with pytest.raises(SmolvmError, match="damaged") as caught:
        _ = guest.size
    assert "pip install" in caught.value.next_step


def test_a_guest_that_is_gone_is_refused(guest: Guest) -> None:
    guest.path.unlink()
    with pytest.raises(SmolvmError, match="damaged"):
        _ = guest.size


def test_damage_in_the_middle_is_found_when_it_is_checked(guest: Guest) -> None:
    data = bytearray(guest.path.read_bytes())
    data[-3] ^= 1  # in the checksum of the content
    guest.path.write_bytes(data)
    assert guest.size
    with pytest.raises(SmolvmError, match="damaged"):
        guest.check()
