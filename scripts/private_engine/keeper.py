"""The keeper of the private engine: starts it, waits until nobody uses it, and ends it.

`PrivateEngine.join` runs this, with the names of the engine's entry and of the copy. It says `ready` on
standard output; its standard error is the log.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from private_engine import catalog, processes
from private_engine.engine import PrivateEngine
from private_engine.places import lock, write

START_SECONDS = 40.0
# opt would make /opt/containerd; cri listens for Kubernetes, nri at one socket for the whole machine
DISABLED = json.dumps([f"io.containerd.{name}" for name in ("grpc.v1.cri", "internal.v1.opt", "nri.v1.nri")])

Started = list[subprocess.Popen[bytes]]


def main(name: str, copy: str) -> None:
    """Leave the caller, and keep the engine until nobody uses it."""
    engine = PrivateEngine(catalog.entry(name) if name else None, copy)
    if os.fork():
        return
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    try:
        processes.record(engine.keeper, [os.getpid()])
        start_engine(engine, make_bridge(engine))
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        lock(engine.run / "users.lock", fcntl.LOCK_EX)
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        engine.end()


def stop(signum: int, _frame: FrameType | None) -> None:
    """End the engine because somebody said so."""
    raise SystemExit(f"ended by signal {signum}")


def make_bridge(engine: PrivateEngine) -> str:
    """Make the bridge and return its name, or `none` where that cannot be done."""
    try:
        engine.bridge.make()
    except OSError as error:
        print(f"no bridge ({error.strerror}): containers get no network", file=sys.stderr)
        engine.bridge.remove()
        return "none"
    return engine.bridge.name


def start_engine(engine: PrivateEngine, bridge: str) -> None:
    """Start containerd and dockerd, and wait until they answer. All that runs is written down."""
    started: Started = []
    make_temporary_folder(engine)
    settings = {}  # the system's own are not for this one
    if engine.entry:
        settings["features"] = {"containerd-snapshotter": engine.entry.containerd_store}
    write(engine.run / "daemon.json", json.dumps(settings))
    # dockerd would give the bridge the address that it had last time, which may be another engine's by now
    (engine.data / "docker" / "network" / "files" / "local-kv.db").unlink(missing_ok=True)
    options = {
        "config-file": engine.run / "daemon.json",
        "data-root": engine.data / "docker",
        "exec-root": engine.run / "exec",
        "pidfile": engine.pidfile,
        "host": engine.host,
        "bridge": bridge,
        # ports are published by docker's own proxy: the host's firewall and routing stay as they are
        "iptables": "false",
        "ip6tables": "false",
        "ip-masq": "false",
        "ip-forward": "false",
    }
    if engine.entry and engine.entry.own_containerd:
        wrap_containerd(engine)
    else:
        write_containerd_settings(engine)
        start(engine, started, "containerd", "--config", str(engine.run / "containerd.toml"))
        wait_for(engine.containerd.exists, started)
        options["containerd"] = engine.containerd
    start(engine, started, "dockerd", *(f"--{name}={value}" for name, value in options.items()))
    wait_for(lambda: engine.socket.exists() and engine.answers(), started)


def make_temporary_folder(engine: PrivateEngine) -> None:
    """Make the engine's folder where every user can make one, and take none that is there."""
    try:
        engine.temporary.mkdir(mode=0o700)
    except FileExistsError:
        raise SystemExit(f"{engine.temporary} is somebody else's: remove it") from None


def write_containerd_settings(engine: PrivateEngine) -> None:
    """Write the settings of a containerd that runs beside dockerd, as the system's does."""
    write(
        engine.run / "containerd.toml",
        f'version = 2\ndisabled_plugins = {DISABLED}\nroot = "{engine.data}/containerd"\n'
        f'state = "{engine.run}/containerd"\n[grpc]\naddress = "{engine.containerd}"\n',
    )


def wrap_containerd(engine: PrivateEngine) -> None:
    """Put a containerd on dockerd's PATH that takes dockerd's settings, and leaves plugins out besides."""
    settings = engine.run / "containerd.toml"
    theirs = engine.run / "exec" / "containerd" / "containerd.toml"
    write(settings, f'version = 2\ndisabled_plugins = {DISABLED}\nimports = ["{theirs}"]\n')
    write(
        engine.run / "bin" / "containerd",
        "#!/bin/sh\nshift 2 # --config and its file\n"
        f'exec {engine.find("containerd")} --config {settings} "$@"\n',
        0o755,
    )


def start(engine: PrivateEngine, started: Started, program: str, *arguments: str) -> None:
    """Start one program of the engine, and write down that it runs."""
    # they in turn look for runc, iptables and docker-proxy
    places = [os.environ.get("PATH", ""), "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"]
    if engine.suite:
        places = [str(engine.run / "bin"), engine.suite.path, *places]
    command = [engine.find(program) or program, *arguments]
    started.append(
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            env={"DOCKER_TMPDIR": str(engine.temporary), **os.environ, "PATH": ":".join(places)},
        )
    )
    processes.record(engine.processes, [process.pid for process in started])


def wait_for(there: Callable[[], bool], started: Started) -> None:
    """Wait until `there()`, and not longer than the programs live."""
    deadline = time.monotonic() + START_SECONDS
    while not there():
        for process in started:
            if process.poll() is not None:
                raise SystemExit(f"the engine ended with {process.returncode} while it started")
        if time.monotonic() > deadline:
            raise SystemExit(f"the engine did not answer within {START_SECONDS:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
