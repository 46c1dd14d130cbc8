"""QEMU's command line for a guest that it emulates, and the documents of its container."""

from __future__ import annotations

import json
from pathlib import Path

from bot_bottle.vm.direct.container import User, container_document, encoded, process_document
from bot_bottle.vm.direct.qemu import SESSIONS, Files, Guest, port_names, qemu_argv

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


def test_each_session_has_three_ports_of_fixed_numbers() -> None:
    ports = {
        name: int(number)
        for word in argv()
        if word.startswith("virtserialport,")
        for number, name in [[part.split("=")[1] for part in word.split(",")[1:]]]
    }
    assert ports["control"] == 1
    assert ports["data"] == 2
    for session in range(1, SESSIONS + 1):
        assert [ports[name] for name in port_names(session)] == [
            3 * session,
            3 * session + 1,
            3 * session + 2,
        ]


def test_the_clocks_rate_is_only_stated_where_it_is_measured() -> None:
    assert "tsc_early_khz=2445000" in argv()[argv().index("-append") + 1]
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
