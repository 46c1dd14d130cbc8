"""QEMU's command line for a guest that it emulates, and the documents of its container."""

from __future__ import annotations

import json
from pathlib import Path

from bot_bottle.vm.direct.container import User, container_document, encoded, process_document
from bot_bottle.vm.direct.qemu import BUSES, SESSIONS, Files, Guest, port_names, qemu_argv

GUEST = Guest(Files("/kernel", "/system", "/a,root", "storage"), 512, 2)


def argv(khz: int | None = 2_445_000) -> list[str]:
    return qemu_argv(Path("/qemu"), GUEST, khz)


def test_a_guest_has_no_network_and_qemu_starts_nothing() -> None:
    words = argv()
    assert not [word for word in words if "net" in word]
    sandbox = words[words.index("-sandbox") + 1]
    for denial in ("obsolete", "elevateprivileges", "spawn", "resourcecontrol"):
        assert f"{denial}=deny" in sandbox


def test_what_a_guest_shares_with_others_is_read_only() -> None:
    drives = {word.split(",")[0]: word for word in argv() if word.startswith("id=")}
    assert "readonly=on" in drives["id=system"]
    assert drives["id=root"].startswith("id=root,file=/a,,root,")
    assert "readonly=on" in drives["id=root"]
    assert "readonly" not in drives["id=storage"]


def ports() -> dict[str, tuple[str, int]]:
    """Return the bus and the number of each port, by the name of what it is connected to."""
    found = {}
    for word in argv():
        if word.startswith(("virtserialport,", "virtconsole,")):
            options = dict(part.split("=") for part in word.split(",")[1:])
            found[options["chardev"]] = (options["bus"], int(options.get("nr", 0)))
    return found


def test_each_session_has_three_ports_of_fixed_numbers() -> None:
    found = ports()
    assert (found["console"], found["control"], found["data"]) == (
        ("first.0", 0),
        ("first.0", 1),
        ("first.0", 2),
    )
    for session in range(1, SESSIONS + 1):
        numbers = [3 * session, 3 * session + 1, 3 * session + 2]
        assert [found[name] for name in port_names(session)] == [("second.0", number) for number in numbers]
    assert found["tty1"] == ("second.0", 3 * SESSIONS + 3)


def test_messages_about_all_ports_of_a_device_find_a_buffer() -> None:
    """QEMU drops those for which none of 32 is free (hw/char/virtio-serial-bus.c)."""
    buses = [bus for bus, _ in ports().values()]
    assert {bus: buses.count(bus) for bus in buses} == {"first.0": 3, "second.0": 28}
    assert all("name=" not in word for word in argv() if word.startswith("virtserialport,"))


def test_no_device_has_the_interrupt_of_the_clock() -> None:
    named = [word.partition("virtio-mmio-bus.")[2][:1] for word in argv() if "virtio-mmio-bus." in word]
    unnamed = [word for word in argv() if word.startswith("virtio-") and "virtio-mmio-bus." not in word]
    assert named == ["2"]
    assert len([word for word in unnamed if "-device" in word]) == 4  # numbers 7 to 4, interrupts 12 to 9
    assert sorted(BUSES.values()) == [f"bus=virtio-mmio-bus.{number}" for number in range(3)]


def test_the_clocks_rate_is_only_stated_where_it_is_measured() -> None:
    assert "tsc_early_khz=2445000 tsc=reliable lpj=9780000" in argv()[argv().index("-append") + 1]
    assert "tsc" not in argv(None)[argv(None).index("-append") + 1]


def test_only_root_has_privileges_and_everybody_may_get_them() -> None:
    root, other = (process_document(["id"], User(uid, 0, "/"), {}, "") for uid in (0, 1000))
    assert "CAP_SYS_ADMIN" in root["capabilities"]["effective"]
    assert other["capabilities"]["effective"] == []
    assert root["capabilities"]["bounding"] == other["capabilities"]["bounding"]
    assert len(set(root["capabilities"]["bounding"])) == 41


def test_variables_go_over_the_home_and_a_terminal_has_a_size() -> None:
    document = process_document(
        ["sh"], User(1000, 1000, "/home/agent"), {"HOME": "/x", "A": "=é\n"}, "/w", size=(33, 99)
    )
    assert "HOME=/x" in document["env"]
    assert "HOME=/home/agent" not in document["env"]
    assert "A==é\n" in document["env"]
    assert document["terminal"] is True
    assert document["consoleSize"] == {"height": 33, "width": 99}


def test_documents_keep_bytes_that_are_no_text() -> None:
    raw = encoded(process_document([b"\xff".decode("utf-8", "surrogateescape")], User(0, 0, "/"), {}, "/"))
    assert b'"args": ["\xff"]' in raw


def test_the_container_has_what_smolvm_gives_one() -> None:
    document = container_document("blue", User(1000, 1000, "/home/agent"), toolkit="/.bottle")
    mounts = {mount["destination"]: mount for mount in document["mounts"]}
    for place in (
        "/proc",
        "/dev",
        "/sys",
        "/sys/fs/cgroup",
        "/run",
        "/run/lock",
        "/tmp",
        "/workspace",
        "/storage",
    ):
        assert place in mounts
    assert "ro" in mounts["/.bottle"]["options"]
    assert "ro" in mounts["/sys"]["options"]
    assert json.loads(encoded(document))["hostname"] == "blue"
    assert "network" not in [each["type"] for each in document["linux"]["namespaces"]]
