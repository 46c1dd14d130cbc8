"""The keeper of the private engine: starts it, waits until nobody uses it, and ends it.

`private_engine.start_keeper` runs this. It says `ready` on standard output; its standard error is the log.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

import private_engine as engine
from private_engine import processes

START_SECONDS = 40.0
CONTAINERD = engine.RUN / "containerd.sock"

Started = list[subprocess.Popen[bytes]]


def main() -> None:
    """Leave the caller, and keep the engine until nobody uses it."""
    if os.fork():
        return
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    try:
        processes.record(engine.KEEPER, [os.getpid()])
        start_engine(make_bridge())
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        engine.lock("users", fcntl.LOCK_EX)
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        engine.end_engine()


def stop(signum: int, _frame: FrameType | None) -> None:
    """End the engine because somebody said so."""
    raise SystemExit(f"ended by signal {signum}")


def make_bridge() -> str:
    """Make the bridge and give its name, or `none` where that cannot be done."""
    try:
        engine.BRIDGE.make()
    except OSError as error:
        print(f"no bridge ({error.strerror}): containers get no network", file=sys.stderr)
        engine.BRIDGE.remove()
        return "none"
    return engine.BRIDGE.name


def start_engine(bridge: str) -> None:
    """Start containerd and dockerd, and wait until they answer. All that runs is written down."""
    started: Started = []
    settings = engine.RUN / "containerd.toml"
    # the opt plugin would make /opt/containerd; the cri plugin listens for Kubernetes
    settings.write_text(
        "version = 2\n"
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'root = "{engine.DATA}/containerd"\n'
        f'state = "{engine.RUN}/containerd"\n'
        f'[grpc]\naddress = "{CONTAINERD}"\n'
    )
    (engine.RUN / "daemon.json").write_text("{}")  # the system's own settings are not for this one
    # dockerd would give the bridge the address that it had last time, which may be another engine's by now
    (engine.DATA / "docker" / "network" / "files" / "local-kv.db").unlink(missing_ok=True)
    options = {
        "config-file": engine.RUN / "daemon.json",
        "containerd": CONTAINERD,
        "data-root": engine.DATA / "docker",
        "exec-root": engine.RUN / "exec",
        "pidfile": engine.RUN / "docker.pid",
        "host": engine.HOST,
        "bridge": bridge,
        # ports are published by docker's own proxy: the host's firewall and routing stay as they are
        "iptables": "false",
        "ip6tables": "false",
        "ip-masq": "false",
        "ip-forward": "false",
    }
    start(started, "containerd", "--config", str(settings))
    wait_for(CONTAINERD.exists, started)
    start(started, "dockerd", *(f"--{name}={value}" for name, value in options.items()))
    wait_for(lambda: engine.SOCKET.exists() and engine.answers(engine.HOST), started)


def start(started: Started, program: str, *arguments: str) -> None:
    """Start one program of the engine, and write down that it runs."""
    # they in turn look for runc, iptables and docker-proxy
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    command = [engine.find(program) or program, *arguments]
    started.append(
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            env={**os.environ, "PATH": path},
        )
    )
    processes.record(engine.PROCESSES, [process.pid for process in started])


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
    main()
