"""Others' ways from an image in docker to a registry, each with a fresh registry that runs already."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bot_bottle import ephemeral_registry
from bot_bottle.engine.engine import Engine


@contextmanager
def docker_registry(folder: Path) -> Iterator[tuple[int, int]]:
    """Run Debian's docker-registry as it is meant to be run, all kept in `folder`; give its pid and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/docker-registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    command: list[str | Path] = ["docker-registry", "serve", config]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and not _answers(port):
                time.sleep(0.05)
            yield process.pid, port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def original(engine: Engine, image: str) -> None:
    """The way of old: a registry in a container, and `docker push`."""
    with ephemeral_registry("container", push=True) as registry:
        registry.push_image(engine, image)


def skopeo(image: str) -> float:
    """`docker save`, then `skopeo copy`, which reads no pipe; give their seconds."""
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
    return _saved(image, lambda saved, target: [*copy, f"docker-archive:{saved}", f"docker://{target}"])


def crane(program: Path, image: str) -> float:
    """`docker save`, then `crane push`, which reads no pipe; give their seconds."""
    return _saved(image, lambda saved, target: [str(program), "push", "--insecure", str(saved), target])


def _saved(image: str, command: Callable[[Path, str], list[str]]) -> float:
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name, docker_registry(Path(name)) as at:
        begun = time.perf_counter()
        saved = Path(name) / "saved.tar"
        subprocess.run(["docker", "save", "--output", saved, image], check=True)
        argv = command(saved, f"127.0.0.1:{at[1]}/app:1")
        done = subprocess.run(argv, capture_output=True, check=False, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr[-1000:]}")
        return time.perf_counter() - begun
