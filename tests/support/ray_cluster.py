"""A Ray cluster of one node on a loopback address, with a folder of its own for all that the node has."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.bottle import PROGRAM, Bottle, wait_until

_BUSY = ("ray::Fan", "ray::bottle ")
# no workers before they are needed, as docs/fleet.md advises
SPARING = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
ADDRESS = "127.0.0.2"  # Ray replaces 127.0.0.1 by an address that others reach


@dataclass(frozen=True)
class Cluster:
    """A cluster of one node. `variables` are those of its callers, `node` runs bottle on the node."""

    folder: Path
    variables: Mapping[str, str]
    client: str
    node: Bottle

    def processes(self) -> dict[int, str]:
        """The workers that run a bottle, and the actors, by pid."""
        return {pid: title for pid, title in _all(self.folder).items() if title.startswith(_BUSY)}


@contextmanager
def one_node(
    variables: Mapping[str, str], resources: str = '{"container": 8}', cpus: int = 4, *, token: bool = True
) -> Iterator[Cluster]:
    """Run a cluster for the block."""
    folder = Path(tempfile.mkdtemp(prefix="bb-ray-"))  # short: Ray has sockets in it
    gcs, client = _free_port(), _free_port()
    (folder / "token").write_text(secrets.token_hex(16))
    auth = {"RAY_AUTH_MODE": "token" if token else "disabled", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    # a busy machine takes longer than half a minute to start a client's server
    patient = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120", **SPARING}
    ray = {**auth, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": f"{ADDRESS}:{gcs}"}
    home = {"HOME": str(folder), "BOT_BOTTLE_STATE_DIR": str(folder / "state")}
    node = Bottle(folder / "cache", {**variables, **home})
    options = (
        f"--head --block --node-ip-address={ADDRESS} --port={gcs} --ray-client-server-port={client} "
        f"--include-dashboard=false --dashboard-port=0 --include-log-monitor=false --num-cpus={cpus} "
        f"--object-store-memory=100000000 --temp-dir={folder}/r --disable-usage-stats"
    )
    argv = [str(PROGRAM.with_name("ray")), "start", *options.split(), f"--resources={resources}"]
    env = {name: value for name, value in node.env({**auth, **patient}).items() if name != "RAY_ADDRESS"}
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: "runtime started" in (folder / "log").read_text(), 60, pause=0.2)
        wait_until(lambda: not _is_free(client), 60, pause=0.2)  # its server is started last
        yield Cluster(folder, ray, f"ray://{ADDRESS}:{client}", node)
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(30)
        finally:
            for pid in _all(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _all(folder: Path) -> dict[int, str]:
    """The processes of the node with a folder, by pid; workers have a title instead of a command line."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    found: dict[int, str] = {}
    for _ in range(3):  # a raylet has started the workers, and those what runs the bottles
        for pid, parent, args in rows:
            if f"{folder}/" in args or int(parent) in found:
                found[int(pid)] = args
    return found


def _free_port() -> int:
    """A port below those that Ray's workers and programs get."""
    for _ in range(100):
        if _is_free(port := 21000 + secrets.randbelow(9000)):
            return port
    raise AssertionError("no free port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) != 0
