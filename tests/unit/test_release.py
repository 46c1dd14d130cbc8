"""The workflows: actions are pinned, and a release is of the version that its tag names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.support.documents import CHECKOUT

from bot_bottle.version import VERSION

WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version(workflow: Path) -> None:
    uses = re.findall(r"uses: (.+)", workflow.read_text())
    assert uses
    assert not [each for each in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[0-9.]+", each)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_get_no_rights_that_a_job_does_not_name(workflow: Path) -> None:
    assert "\npermissions:\n  contents: read\n" in workflow.read_text()


@pytest.mark.parametrize(("tag", "code"), [(f"v{VERSION}", 0), (VERSION, 1), (f"v{VERSION}.1", 1)])
def test_release_stops_where_its_tag_is_not_the_version(tag: str, code: int) -> None:
    text = (CHECKOUT / ".github" / "workflows" / "release.yml").read_text()
    [command] = re.findall(r'run: (test "\$TAG" = .+)', text)
    done = subprocess.run(["bash", "-c", command], cwd=CHECKOUT, env={"TAG": tag, "PATH": "/usr/bin:/bin"})
    assert done.returncode == code
