"""What is known of a run when it has ended, and while it lasts."""

from __future__ import annotations

import json

from tests.support.bottle import Bottle, end, wait_until
from tests.support.callers import caller
from tests.support.engines import Docker


def shown(bottle: Bottle, *name: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(bottle("show", "--json", *name).out)
    return document


def test_a_receipt_of_a_clone_has_its_first_and_last_commit(docker: Docker, git_image: str) -> None:
    with caller(0, docker) as root:
        repo = root.repo()
        base = repo.git("rev-parse", "HEAD")
        script = "echo more >> README; git commit -qam x; echo y > z; exit 5"
        options = (
            "--backend",
            "docker",
            "--image",
            git_image,
            "--workspace",
            "clone",
            "--name",
            "ship",
            "--time",
        )
        ended = root.run(repo, *options, "-e", "SECRET=hunter2", "--", "sh", "-c", script)
        assert ended.code == 5
        assert {"load", "command", "clone", "total"} <= {line.split()[0] for line in ended.err.splitlines()}
        found = shown(root.bottle, "ship")
        assert found["git"] == {
            "repository": str(repo.top),
            "base": base,
            "result": repo.git("rev-parse", "bottle/ship"),
            "branch": "bottle/ship",
            "uncommitted": repo.git("rev-parse", "refs/bottle/ship/uncommitted"),
            "commits": 1,
            "files": 2,
            "added": 2,
            "removed": 0,
        }
        assert (found["exit_status"], found["image_id"], found["error"]) == (5, git_image, None)
        assert "docker" in str(found["versions"])
        assert "hunter2" not in json.dumps(found)
        plain = root.bottle("show").out
        assert "plan.command" in plain
        assert "ended" in plain.splitlines()[0]


def test_a_run_that_could_not_begin_has_a_receipt(bottle: Bottle) -> None:
    bottle("run", "--backend", "docker", "--image", "bot-bottle-no-such-image", "--name", "lost")
    found = shown(bottle, "lost")
    assert found["exit_status"] != 0
    assert "bot-bottle-no-such-image" in str(found["error"])
    bottle("show", "other").failed(118, "other")


def test_a_run_is_shown_while_it_lasts_and_when_it_was_killed(bottle: Bottle, git_image: str) -> None:
    run = bottle.start(
        "run", "-q", "--backend", "docker", "--image", git_image, "--name", "long", "--", "sleep", "60"
    )
    wait_until(lambda: "running" in bottle("show").out, pause=0.2)
    assert bottle("show", "long").out.split()[:2] == ["state", "running"]
    run.kill()
    run.wait()
    assert bottle("show", "long").out.split()[:2] == ["state", "killed"]
    assert bottle("cache", "prune").code == 0  # any command sweeps
    end(run)
    assert bottle.leftovers == []
