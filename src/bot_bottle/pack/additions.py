"""What is put on top of an image: features and lifecycle commands of a devcontainer.json, and an agent."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bot_bottle.agent.choice import Agent
from bot_bottle.agent.launcher import BIN
from bot_bottle.agent.layer import LAYER_VERSION, make_layer
from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.engine.engine import Engine, NoSuchImageError
from bot_bottle.engine.features import install_features, label
from bot_bottle.engine.identity import EngineImage
from bot_bottle.engine.layers import add_layers, libc_of
from bot_bottle.engine.setup import run_setup
from bot_bottle.engine.source import Source
from bot_bottle.host import paths
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.structs import replace
from bot_bottle.workspace.features import (
    Features,
    commands_of_features,
    find_program,
    labelled_user,
    write_project,
)
from bot_bottle.workspace.lifecycle import CREATE, Command


def added(engine: Engine, image: EngineImage, source: Source, run: RunDir, progress: Progress) -> EngineImage:
    """Return the image with what `source` has on top of it. Raises BuildError, SpecError, EngineError."""
    found = _of_devcontainer(engine, image, source, run, progress)
    return found if source.agent is None else _with_agent(engine, found, source.agent, run, progress)


def _of_devcontainer(
    engine: Engine, image: EngineImage, source: Source, run: RunDir, progress: Progress
) -> EngineImage:
    setup, found = source.setup, image
    if source.features is not None:
        before = label(engine, image.id)  # which some engines forget when its last name is taken away
        found = _with_features(engine, image, source.features, run, progress, no_cache=source.no_cache)
        if setup is not None:
            others = commands_of_features(label(engine, found.id), before, setup.file)
            setup = replace(setup, commands=_joined(others, setup.commands))
    if setup is None or not setup.commands:
        return found
    setup = replace(setup, user=setup.user or labelled_user(label(engine, found.id)))
    with progress.stage("setup") as stage:
        done = run_setup(engine, found, setup, run, stage.say, no_cache=source.no_cache)
        stage.conclude(f"image {done.id[:19]} with {', '.join(setup.commands)}")
    return done


def _with_agent(
    engine: Engine, image: EngineImage, agent: Agent, run: RunDir, progress: Progress
) -> EngineImage:
    """Return the image with the layer of an agent, from the engine if it was made before."""
    arch = Platform.of_this_machine().architecture
    if known := _known(engine, agent, _key_of_agent(agent, image, arch), progress):
        return known
    from bot_bottle.pack.agent_parts import storing_parts

    libc = libc_of(engine, image, arch, run) if agent.depends_on_libc(arch) else None
    layer = make_layer(agent, arch, libc, progress)
    launcher = run.folder("agent") / "launcher.tar"
    launcher.write_bytes(layer.launcher)
    key = _key_of_agent(replace(agent, hashes={**agent.hashes, **layer.hashes}), image, arch)
    wait = f"waiting for another bot-bottle that builds an image with {agent.name}"
    with exclusive_lock(layer.folder.with_suffix(".lock"), lambda: progress.note(wait)):
        if known := _known(engine, agent, key, progress):
            return known
        with progress.stage("layer") as stage, storing_parts(layer.packages):
            done = add_layers(engine, image, [layer.packages, launcher], BIN, run, stage.say)
            stage.conclude(f"image {done.id[:19]} with {agent.name} {agent.version}")
        ConfigDigests(paths.agents_dir() / "images").add(key, Digest(done.id))
    return done


def _known(engine: Engine, agent: Agent, key: str, progress: Progress) -> EngineImage | None:
    """Return the image with an agent that was made before, if the engine still has it."""
    known = ConfigDigests(paths.agents_dir() / "images").find(key)
    if known is not None:
        with suppress(NoSuchImageError):
            found = engine.image(str(known))
            progress.note(f"{'agent':<8} cached  {agent.name} {agent.version}, image {str(known)[:19]}")
            return found
    return None


def _key_of_agent(agent: Agent, image: EngineImage, arch: str) -> str:
    """Return what an image with an agent is known by: all that decides its layer, and what it is on."""
    profile = agent.profile.model_dump_json(exclude={"about", "state", "hosts", "image"})
    parts = (LAYER_VERSION, profile, agent.version, sorted(agent.hashes_for(arch).items()), image.id, arch)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _joined(
    of_features: Mapping[str, Mapping[str, Command]], own: Mapping[str, Command]
) -> dict[str, Command]:
    """Return all commands in the order of the specification: of each kind, those of features first."""
    found: dict[str, Command] = {}
    for key in CREATE:
        found |= {f"{key} of {name}": command for name, command in of_features[key].items()}
        found |= {key: own[key]} if key in own else {}
    return found


def _with_features(
    engine: Engine, image: EngineImage, features: Features, run: RunDir, progress: Progress, *, no_cache: bool
) -> EngineImage:
    """Return the image with features, from the engine if it has them: the CLI asks registries each time."""
    cache, key = ConfigDigests(paths.features_dir()), _key(image, features, run)
    known = None if no_cache else cache.find(key)
    if known is not None and engine.exists(str(known)):
        progress.note(f"{'features':<8} cached  image {str(known)[:19]}")
        return engine.image(str(known))
    with progress.stage("features") as stage:
        done = install_features(engine, image, features, run, stage.say, no_cache=no_cache)
        cache.add(key, Digest(done.id))
        stage.conclude(f"image {done.id[:19]} with {', '.join(features.wanted)}")
    return done


def _key(image: EngineImage, features: Features, run: RunDir) -> str:
    """Return what an image with features is known by: all that is installed, on what, and by which CLI."""
    with tempfile.TemporaryDirectory(prefix="features-", dir=run.path) as folder:
        _, content = write_project(features, image.id, Path(folder))
    program = find_program(features.file).resolve()
    facts = program.stat()
    parts = (content, image.id, str(program), str(facts.st_size), str(facts.st_mtime_ns))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
