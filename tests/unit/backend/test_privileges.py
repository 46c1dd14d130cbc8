"""What a container's command may do: what each engine is asked for, and what is taken for right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support import fake_engines

from bot_bottle.backend.container.privileges import (
    check_limits,
    check_seccomp,
    judge_privileges,
    privilege_options,
)
from bot_bottle.errors import BootError, WallsError

DOCKER = fake_engines.engine(Path("docker"))
PODMAN = fake_engines.engine(Path("podman"), "podman")

ROOT = {
    "Uid": "0",
    "CapInh": "0000000000000000",
    "CapPrm": "00000000000000fb",
    "CapEff": "00000000000000fb",
    "CapBnd": "00000000000000fb",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "UserNamespace": "refused",
}
USER = {**ROOT, "Uid": "1000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000"}


def told(fields: dict[str, str]) -> bytes:
    return "".join(f"status.{name} {value}\n" for name, value in fields.items()).encode()


def wrong(output: bytes) -> list[str]:
    results = judge_privileges(output).results
    assert len(results) == 8
    return [name.removeprefix("status.") for name, (_, ok) in results.items() if not ok]


def podman_info(capabilities: str) -> dict[str, Any]:
    return {"host": {"security": {"capabilities": capabilities, "seccompEnabled": True}}}


@pytest.mark.parametrize("fields", [ROOT, USER])
def test_privileges_as_expected_are_accepted(fields: dict[str, str]) -> None:
    assert wrong(told(fields) + b"routes unreachable\n") == []


@pytest.mark.parametrize("name", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
@pytest.mark.parametrize("fields", [ROOT, USER], ids=["root", "user"])
def test_each_set_of_capabilities_counts(name: str, fields: dict[str, str]) -> None:
    assert wrong(told({**fields, name: "00000000000000ff"})) == [name]
    assert wrong(told({each: value for each, value in fields.items() if each != name})) == [name]
    assert wrong(told(fields) + told({name: fields[name]})) == [name], "told twice"


def test_a_user_with_roots_capabilities_is_not_root() -> None:
    assert wrong(told({**ROOT, "Uid": "1000"})) == ["CapPrm", "CapEff"]
    assert wrong(told(ROOT) + told({"Uid": "1000"})) == ["CapPrm", "CapEff"]
    assert wrong(told({**USER, "Uid": "0"})) == [], "root that joins an ordinary user's container"


@pytest.mark.parametrize(
    ("name", "value"),
    [("NoNewPrivs", "0"), ("Seccomp", "0"), ("Seccomp", "1"), ("UserNamespace", "made")],
)
def test_a_missing_filter_or_new_privileges_fail_their_check(name: str, value: str) -> None:
    assert wrong(told({**USER, name: value})) == [name]


def test_an_empty_answer_fails_every_check() -> None:
    assert len(wrong(b"")) == 8
    assert len(wrong(b"\xff" * 100_000 + told(USER))) == 8


def test_docker_adds_and_podman_drops() -> None:
    docker = privilege_options(DOCKER, {})
    assert docker[:2] == ["--security-opt=no-new-privileges", "--cap-drop=ALL"]
    assert [option.partition("=")[2] for option in docker[2:]] == [
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"
    ]  # fmt: skip
    podman = privilege_options(PODMAN, podman_info("CAP_CHOWN,CAP_MKNOD, cap_net_raw,CAP_SETUID"))
    assert podman == ["--security-opt=no-new-privileges", "--cap-drop=MKNOD", "--cap-drop=NET_RAW"]
    assert privilege_options(PODMAN, podman_info("")) == podman[:1]
    assert privilege_options(PODMAN, {}) == podman[:1], "what is not known is found from inside"


def test_an_engine_without_a_filter_is_refused() -> None:
    check_seccomp(PODMAN, podman_info(""))
    check_seccomp(DOCKER, {"SecurityOptions": ["name=seccomp,profile=default"]})
    for engine, info in (
        (PODMAN, {"host": {"security": {"seccompEnabled": False}}}),
        (PODMAN, {}),
        (DOCKER, {"SecurityOptions": ["name=seccomp,profile=unconfined"]}),
        (DOCKER, {"SecurityOptions": ["name=apparmor"]}),
        (DOCKER, {}),
    ):
        with pytest.raises(BootError, match="without a seccomp filter"):
            check_seccomp(engine, info)


def test_a_docker_that_enforces_no_limits_is_refused() -> None:
    limits = {"MemoryLimit": True, "PidsLimit": True, "CPUCfsQuota": False}
    check_limits(DOCKER, limits)
    check_limits(DOCKER, {})  # what it does not say, the container shows
    with pytest.raises(WallsError, match="Memory, PidsLimit not in force") as caught:
        check_limits(DOCKER, {"CgroupDriver": "none", "MemoryLimit": False, "PidsLimit": False})
    assert "rootless" in caught.value.why
    with pytest.raises(WallsError, match=": PidsLimit not in force"):
        check_limits(DOCKER, {**limits, "PidsLimit": False})
