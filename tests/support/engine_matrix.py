"""The engines that the tests run on, and how a test asks for one or for each.

A test that needs an engine takes the fixture `docker` or `podman`. Marked `each_docker` or `each_podman` (a
test, or a module by its `pytestmark`), it runs on each engine of that kind; with both marks, on each docker
and then on each podman. `engine` is our own wrapper: of each docker client with each of its builders, and of
each podman. Three marks, of a test or of one set of its parameters, leave out engines that can show nothing
else: `own` takes this machine's own engines, `newest` those and the newest, and `one_store` one of the image
stores of each docker, as what runs containers is the same with both.

The engines are those of `scripts/engine list`, and first this machine's own. The tests are sorted by their
engines, so that one runs at a time. Where tests run in several processes, each process has a docker of this
machine and a podman of its own, and all tests of any other engine are in one of them.

What runs on all of them takes more than half an hour. So it is slow (`make test-slow`) on other engines than
this machine's own, docker 28 with containerd's store and podman 5.8, and with other clients than each one's
own; marked `always`, on no engine with its own client; marked `others_slow`, on all but this machine's own;
marked `podmans_slow`, as podman 5.8 does it with the same code, on all podmans but this machine's own.
`make engine ENGINE=NAME` runs all of the tier on one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot_bottle.engine.engine import BuildRequest, Engine, find_engine
from tests.support.engines import CHOSEN, LABEL, OWNER, client_variables
from tests.support.images import busybox_rootfs

PODMAN = "podman"
BASE = f"FROM scratch AS base\nLABEL {LABEL}={OWNER}\nCOPY rootfs /\n"

# None is this machine's own, or the one that was chosen for the whole run
Name = str | None
OVERLAY2, CONTAINERD = "docker-28-overlay2", "docker-28-containerd"
DOCKERS: list[Name] = [None, "docker-26-overlay2", "docker-26-containerd", OVERLAY2, CONTAINERD]
PODMANS: list[Name] = [None, "podman-5.4", "podman-5.8"]
if CHOSEN:
    DOCKERS = PODMANS = [None]
ENGINES = {"docker": DOCKERS, PODMAN: PODMANS}
QUICK: set[Name] = {None, CONTAINERD, "podman-5.8"}
OTHER_STORES: set[Name] = {"docker-26-containerd", OVERLAY2}  # left out by `one_store`


@dataclass(frozen=True)
class Case:
    """A client of an engine. `wish` is DOCKER_BUILDKIT, "" for our own choice of a builder."""

    engine: Name = None
    program: Path | None = None  # this machine's; or that which comes with `client`, or with the engine
    client: Name = None
    plugins: bool = True
    wish: str = ""
    kind: str = "docker"

    def __str__(self) -> str:
        parts = (self.engine or CHOSEN or f"own {self.kind}", self.client, self.program, self.wish)
        return "-".join(str(part) for part in parts if part) + ("" if self.plugins else "-no-plugins")


def docker_clients() -> list[Path]:
    """Return the docker clients of this machine: there may be one of the system and a newer one.

    Where there is none, tests that need one fail when they run, and the others run.
    """
    found = [Path(folder) / "docker" for folder in os.environ["PATH"].split(os.pathsep)]
    clients = {path.resolve(): path for path in reversed(found) if os.access(path, os.X_OK)}
    return [path for path in clients.values() if ".cache" not in path.parts] or [Path("docker")]


def _cases() -> list[Case]:
    system = docker_clients()
    machines = [Case(program=program) for program in system]
    classic = Case(program=system[0], wish="0")  # the classic builder of the system's
    if CHOSEN.startswith("docker"):
        return [Case(), Case(plugins=False, wish="0"), *machines, classic]
    if CHOSEN:
        return [Case(kind=PODMAN)]
    return [
        *machines,
        classic,
        Case(client=OVERLAY2),
        Case("docker-26-overlay2"),
        Case("docker-26-containerd"),
        Case("docker-26-containerd", program=system[0]),
        Case(OVERLAY2),
        Case(CONTAINERD),
        Case(CONTAINERD, plugins=False),
        Case(CONTAINERD, program=system[0]),
        Case(CONTAINERD, program=system[0], wish="0"),
        *(Case(name, kind=PODMAN) for name in PODMANS),
    ]


def _first_of_each_engine(cases: list[Case]) -> list[Case]:
    return list({(case.engine, case.kind): case for case in reversed(cases)}.values())[::-1]


CASES = _cases()
# each engine with its own client and builder, and this machine's with docker's classic builder
QUICK_CASES = [*_first_of_each_engine(CASES), *(each for each in CASES if not each.engine and each.wish)]


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Let a test run on the engines that it asks for."""
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    if "engine_case" in metafunc.fixturenames:
        cases = CASES
        if "one_client" in marked:
            cases = _first_of_each_engine(cases)
        if "any_builder" in marked:
            cases = [case for case in cases if case.plugins and not case.wish]
        rows = [
            pytest.param(*_pair(case.engine, case.kind), case, marks=_marks(marked, case.engine, case))
            for case in cases
        ]
        metafunc.parametrize(
            "docker, podman, engine_case",
            rows,
            indirect=["docker", "podman"],
            ids=map(str, cases),
            scope="session",  # or each test would have an engine that was started for it
        )
        return
    each = {kind: names for kind, names in ENGINES.items() if f"each_{kind}" in marked}
    each = {kind: names for kind, names in each.items() if kind in metafunc.fixturenames}
    if len(each) == 2:
        pairs = list(dict.fromkeys(_pair(name, kind) for kind, names in each.items() for name in names))
        ids = [docker or podman or CHOSEN or "own" for docker, podman in pairs]
        rows = [pytest.param(*pair, marks=_marks(marked, pair[0] or pair[1])) for pair in pairs]
        metafunc.parametrize("docker, podman", rows, indirect=True, ids=ids, scope="session")
    for kind, names in each.items() if len(each) == 1 else ():
        ids = [name or CHOSEN or "own" for name in names]
        rows = [pytest.param(name, marks=_marks(marked, name)) for name in names]
        metafunc.parametrize(kind, rows, indirect=True, ids=ids, scope="session")


def _marks(marked: set[str], engine: Name, case: Case | None = None) -> list[pytest.MarkDecorator]:
    """Return the marks of a test's run on an engine, for a test that is `marked` so itself."""
    if CHOSEN:
        return []
    quick = engine in QUICK or "always" in marked
    return [] if quick and (case is None or case in QUICK_CASES) else [pytest.mark.slow]


def slow_on(docker: Name, podman: Name) -> list[pytest.MarkDecorator]:
    """Return the marks of a test that is about all engines alike, on these."""
    return [] if {docker, podman} <= QUICK else [pytest.mark.slow]


def _pair(name: Name, kind: str) -> tuple[Name, Name]:
    """Return the docker and the podman of a test that is about one of them."""
    return (None, name) if kind == PODMAN else (name, None)


def unit(node_id: str) -> str:
    """Return with what a test shares a process: the tests of its engine, or of its file for our own."""
    path, _, test = node_id.partition("::")
    names = (name for names in ENGINES.values() for name in names if name)
    return next((name for name in names if name in test.partition("[")[2]), path)


def select(items: list[pytest.Item]) -> None:
    """Leave out the runs of tests on engines that a mark of theirs leaves out."""
    left_out = [item for item in items if not _selected(item)]
    if left_out:
        left_out[0].config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _selected(item)]


def _selected(item: pytest.Item) -> bool:
    names = {name for name in _engines(item) if name}
    if item.get_closest_marker("own"):
        return not names
    if item.get_closest_marker("newest"):
        return names <= QUICK
    if names & OTHER_STORES and item.get_closest_marker("one_store"):
        case = item.callspec.params.get("engine_case")  # type: ignore[attr-defined]
        return case is not None and case.program is not None  # with a client that is in no other case
    return True


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark the tests that are slow on an engine. This has to come before -m is looked at."""
    for item in items:
        others = any(_engines(item)) and item.get_closest_marker("others_slow")
        if others or (_engines(item)[1] and item.get_closest_marker("podmans_slow")):
            item.add_marker(pytest.mark.slow)


def _engines(item: pytest.Item) -> tuple[Name, Name]:
    """Return the docker and the podman of a test, by name."""
    callspec = getattr(item, "callspec", None)
    return (callspec.params.get("docker"), callspec.params.get("podman")) if callspec else (None, None)


def sort(items: list[pytest.Item]) -> None:
    """Put tests of one engine together, so that it starts once and ends after the last of them."""

    def place(names: list[Name], name: Name) -> tuple[int, str]:
        """Return where a name comes; one that a test names for itself comes last."""
        return names.index(name) if name in names else len(names), name or ""

    def engines(item: pytest.Item) -> tuple[tuple[int, str], tuple[int, str]]:
        docker, podman = _engines(item)
        return place(DOCKERS, docker), place(PODMANS, podman)

    items.sort(key=engines)


def use(case: Case, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Engine:
    """Make the engine of a case, which runs, the one that is found, and find it as a user's is found."""
    monkeypatch.delenv("BOT_BOTTLE_ENGINE", raising=False)
    if case.kind == PODMAN:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return find_engine(PODMAN)
    if case.client:
        for name, value in client_variables(case.client).items():
            monkeypatch.setenv(name, value)
    if case.program:
        (folder / "bin").mkdir()
        (folder / "bin" / "docker").symlink_to(case.program)
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    if case.program or not case.plugins:
        monkeypatch.setenv("DOCKER_CONFIG", str(folder / "docker-config"))  # which names no plugins
    monkeypatch.setenv("DOCKER_BUILDKIT", case.wish)
    found = find_engine("docker")
    if case.program:
        assert found.program == folder / "bin" / "docker"
    assert not (case.wish and found.buildkit)
    return found


def fresh_context(folder: Path) -> Path:
    """Make a build context with a root filesystem to start FROM scratch with. No build of it is cached."""
    root = busybox_rootfs(folder / "rootfs")
    (root / "etc" / "hostname").write_text(f"{OWNER}{folder}\n")
    return folder


def dockerfile(context: Path, rest: str) -> BuildRequest:
    """Ask for a build of these lines on top of the context's root filesystem."""
    (context / "Dockerfile").write_text(BASE + rest)
    return BuildRequest(context)
