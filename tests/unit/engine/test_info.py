"""What an engine says of itself, as docker and podman spell it."""

from __future__ import annotations

from typing import Any

import pytest

from bot_bottle.engine.info import is_containerd_store, is_rootless, part, remaps_users

DOCKER: dict[str, Any] = {
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"]],
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "SecurityOptions": ["name=seccomp,profile=default"],
}


@pytest.mark.parametrize(
    ("info", "rootless", "remapped", "containerd"),
    [
        (DOCKER, False, False, False),
        (DOCKER | {"SecurityOptions": ["name=seccomp", "name=rootless"]}, True, False, False),
        (DOCKER | {"SecurityOptions": ["name=userns"]}, False, True, False),
        (
            {"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
            False,
            False,
            True,
        ),
        (DOCKER | {"SecurityOptions": None, "DriverStatus": None}, False, False, False),
        (
            {"host": {"security": {"rootless": True}}, "store": {}},
            True,
            False,
            False,
        ),
        ({"host": {"security": {"rootless": False}}}, False, False, False),
        ({"host": {"security": {"rootless": "yes"}}}, False, False, False),
        ({"host": []}, False, False, False),
    ],
)
def test_an_answer_of_docker_or_podman_is_read(
    info: dict[str, Any], rootless: bool, remapped: bool, containerd: bool
) -> None:
    assert (is_rootless(info), remaps_users(info), is_containerd_store(info)) == (
        rootless,
        remapped,
        containerd,
    )


@pytest.mark.parametrize("document", [None, [], "text", {}, {"key": None}, {"key": "text"}])
def test_a_part_that_is_no_object_is_empty(document: Any) -> None:
    assert part(document, "key") == {}
