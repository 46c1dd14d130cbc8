"""What a QEMU needs of its own installation in the private root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bot_bottle.errors import AccelError
from bot_bottle.vm.direct.installation import find_installation

PROGRAM = Path("/bin/sleep").resolve()


def installed(prefix: Path) -> Path:
    """Return a program below a prefix of its own, as one that was built from source."""
    for folder in (
        "bin",
        "share/qemu",
        "share/seabios",
        "share/doc",
        "lib/x86_64-linux-gnu/qemu",
        "lib64/qemu",
    ):
        (prefix / folder).mkdir(parents=True)
    return Path(shutil.copy(PROGRAM, prefix / "bin" / "qemu-system-x86_64"))


def test_one_of_the_system_has_all_it_needs(tmp_path: Path) -> None:
    (tmp_path / "qemu").symlink_to(PROGRAM)
    found = find_installation(tmp_path / "qemu")
    assert (found.program, found.readable, found.options) == (PROGRAM, (), ())


def test_another_ones_firmware_and_modules_are_readable_and_nothing_else_beside_them(tmp_path: Path) -> None:
    program = installed(tmp_path)
    found = find_installation(program)
    qemu, seabios = tmp_path / "share" / "qemu", tmp_path / "share" / "seabios"
    modules = {tmp_path / "lib64" / "qemu", tmp_path / "lib" / "x86_64-linux-gnu" / "qemu"}
    assert found.program == program
    assert set(found.readable) == {qemu, seabios, *modules}
    assert found.options == ("-L", str(qemu), "-L", str(seabios))


def test_libraries_that_only_the_program_finds_are_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = installed(tmp_path)
    [library] = [path for path in Path("/lib").glob("*/libc.so.6") if path.parent.name.startswith("x86_64")]
    own = Path(shutil.copy(library, tmp_path / "lib"))
    (tmp_path / "lib" / "libother.so").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    assert own in find_installation(program).readable
    assert tmp_path / "lib" / "libother.so" not in find_installation(program).readable


def test_one_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    program = installed(tmp_path)
    program.write_bytes(b"no program")
    with pytest.raises(AccelError, match="does not run"):
        find_installation(program)
