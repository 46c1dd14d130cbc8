"""podman's seccomp profile, narrowed: what it refuses stays refused, and what makes namespaces is besides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support import fake_engines

from bot_bottle.backend.container.seccomp import narrowed, seccomp_options
from bot_bottle.errors import BootError

DOCKER = fake_engines.engine(Path("docker"))
PODMAN = fake_engines.engine(Path("podman"), "podman")
ALLOW = "SCMP_ACT_ALLOW"
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
    "syscalls": [
        {"names": ["read", "clone", "clone3", "mount", "unshare"], "action": ALLOW},
        {"names": ["unshare", "setns"], "action": ALLOW, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["personality"], "action": ALLOW, "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
    ],
}


def info(path: Path | str) -> dict[str, Any]:
    return {"host": {"security": {"seccompProfilePath": str(path)}}}


def test_what_makes_namespaces_and_mounts_is_taken_out() -> None:
    made = narrowed(PROFILE)
    allowed = [rule for rule in made["syscalls"] if rule["action"] == ALLOW]
    assert allowed[0] == {"names": ["read"], "action": ALLOW}
    assert allowed[1] == PROFILE["syscalls"][2], "a rule with none of them is as it was"
    [clone] = allowed[2:]
    assert (clone["names"], clone["args"][0]["op"]) == (["clone"], "SCMP_CMP_MASKED_EQ")
    mask = clone["args"][0]["value"]
    assert mask == 0x7E020000, "every CLONE_NEW flag that clone(2) takes"
    assert clone["args"][0]["valueTwo"] == 0
    refused = {name: rule for rule in made["syscalls"] if rule["action"] != ALLOW for name in rule["names"]}
    assert {"mount", "unshare", "setns"} <= refused.keys()
    assert (refused["mount"]["errnoRet"], refused["clone3"]["errnoRet"]) == (1, 38)
    flags = [rule["args"][0]["value"] for rule in made["syscalls"] if rule["names"] == ["clone"]][1:]
    assert (sum(flags), len(flags)) == (mask, 7)
    assert made["archMap"] == PROFILE["archMap"]


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ([], "not a seccomp profile"),
        ({}, "not a seccomp profile"),
        ({**PROFILE, "syscalls": ["read"]}, "not a seccomp profile"),
        ({**PROFILE, "syscalls": [{"name": "read"}]}, "no names"),
        ({**PROFILE, "defaultAction": ALLOW}, "its default is to allow"),
        ({"syscalls": []}, "its default is to allow"),
    ],
)
def test_an_invalid_profile_is_refused(profile: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(profile))
    with pytest.raises(BootError, match="cannot be restricted") as caught:
        seccomp_options(PODMAN, info(tmp_path / "own.json"), tmp_path)
    assert told in caught.value.why
    assert not (tmp_path / "seccomp.json").exists()


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[" * 100_000])
def test_a_profile_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(BootError, match="cannot be restricted") as caught:
        seccomp_options(PODMAN, info(tmp_path / "own.json"), tmp_path)
    assert str(tmp_path / "own.json") in caught.value.why
    assert caught.value.next_step


def test_podman_gets_its_own_profile_narrowed_and_docker_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(PROFILE))
    [option] = seccomp_options(PODMAN, info(tmp_path / "own.json"), tmp_path)
    assert option == f"--security-opt=seccomp={tmp_path}/seccomp.json"
    assert json.loads((tmp_path / "seccomp.json").read_text()) == narrowed(PROFILE)
    assert seccomp_options(DOCKER, {}, tmp_path) == []
    with pytest.raises(BootError, match="cannot be restricted"):
        seccomp_options(PODMAN, {}, tmp_path)
