"""A docker of files: one image, and containers that run their command on this machine, without isolation.

It stands in where no real engine gives the case: what it answers otherwise than docker does is a `Behaviour`,
a file beside its state. As a program: FOLDER ARGUMENTS...
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

INFO = {
    "Driver": "overlay2",
    "DriverStatus": [],
    "DockerRootDir": "/nowhere",
    "SecurityOptions": ["name=seccomp,profile=default"],
}
CONTAINERD = {**INFO, "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
_NOWHERE = ("routes", "ipv4", "ipv6", "dns-udp", "dns-tcp", "udp-443", "icmp", "gateway", "lan", "metadata")
ISOLATED = {
    **dict.fromkeys(_NOWHERE, "unreachable"),
    "host-loopback": "refused",
    "status.Uid": "1000",
    **dict.fromkeys(("status.CapInh", "status.CapPrm", "status.CapEff", "status.CapAmb"), "0" * 16),
    "status.CapBnd": f"{0b11111011:016x}",
    "status.NoNewPrivs": "1",
    "status.Seccomp": "2",
    "status.UserNamespace": "refused",
}


@dataclass
class Behaviour:
    """What it does otherwise. `fails` has the words with which a command fails, by its first word."""

    fails: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=lambda: dict(INFO))
    host_config: dict[str, Any] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=lambda: dict(ISOLATED))
    ends_early: bool = False


class FakeDocker:
    """Its state in `folder`; `image` is what `image inspect` says of the one image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        self.archive = folder / "image.tar"

    def install(self, bin: Path, image: dict[str, Any], behaviour: Behaviour | None = None) -> Path:
        """Put the program into a folder for PATH, and give where it is."""
        for each in (self.folder, bin, self.folder / "containers"):
            each.mkdir(exist_ok=True)
        (self.folder / "image.json").write_text(json.dumps(image))
        self.behave(behaviour or Behaviour())
        program = bin / "docker"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {self.folder} "$@"\n')
        program.chmod(0o755)
        return program

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like that from now on."""
        (self.folder / "behaviour.json").write_text(json.dumps(asdict(behaviour)))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call so far."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [json.loads(line) for line in lines]

    def verbs(self) -> list[str]:
        """The first word of each call so far."""
        return [call[0] for call in self.calls]

    @property
    def containers(self) -> list[str]:
        """The names of the containers that there are."""
        return sorted(path.stem for path in (self.folder / "containers").iterdir())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _option(args: list[str], name: str) -> str:
    return next((arg.partition("=")[2] for arg in args if arg.startswith(f"{name}=")), "")


class _Program:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.behaviour: dict[str, Any] = json.loads((folder / "behaviour.json").read_text())

    def run(self, args: list[str]) -> int:
        with (self.folder / "calls").open("a") as file:
            file.write(json.dumps(args) + "\n")
        if words := self.behaviour["fails"].get(args[0]):
            sys.stderr.write(f"{words}\n")
            return 1
        if args[0] in ("image", "container"):
            return self.inspect(args)
        handler = getattr(self, args[0], None)
        return int(handler(args[1:])) if handler else 1

    def version(self, _args: list[str]) -> int:
        _say(json.dumps({"Client": {"Version": "26.1"}, "Server": {"Version": "26.1"}}))
        return 0

    def info(self, _args: list[str]) -> int:
        _say(json.dumps(self.behaviour["info"]))
        return 0

    def history(self, _args: list[str]) -> int:
        _say(json.dumps({"CreatedBy": "crafted"}))
        return 0

    def inspect(self, args: list[str]) -> int:
        if args[0] == "image":
            _say(json.dumps([json.loads((self.folder / "image.json").read_text())]))
            return 0
        _say(json.dumps([self.read(args[-1])]))
        return 0

    def save(self, _args: list[str]) -> int:
        sys.stdout.buffer.write((self.folder / "image.tar").read_bytes())
        return 0

    def create(self, args: list[str]) -> int:
        image = json.loads((self.folder / "image.json").read_text())["Id"]
        at = args.index(image)
        memory = int(_option(args, "--memory").rstrip("m") or 0) << 20
        host = {
            "Memory": memory,
            "NetworkMode": _option(args, "--network"),
            "Privileged": False,
            "PidsLimit": int(_option(args, "--pids-limit") or 0),
        }
        mounts = [arg for arg in args[:at] if arg.startswith("--mount=") and '"target=/.bottle"' in arg]
        variables = Path(_option(args, "--env-file")).read_text().splitlines()
        name = _option(args, "--name")
        self.write(
            name,
            {
                "Id": hashlib.sha256(name.encode()).hexdigest(),
                "HostConfig": {**host, **self.behaviour["host_config"]},
                "State": {"Running": False, "Status": "created", "ExitCode": 0},
                "labels": [arg.partition("=")[2] for arg in args if arg.startswith("--label=")],
                "entrypoint": mounts[0].partition("source=")[2].partition('"')[0],
                "env": dict(line.partition("=")[::2] for line in variables),
                "command": args[at + 1 :][args[at + 1 :].index("/.bottle/entrypoint") + 1 :],
            },
        )
        _say(name)
        return 0

    def start(self, args: list[str]) -> int:
        container = self.read(args[-1])
        container["State"] = {"Running": True, "Status": "running", "ExitCode": 0}
        self.write(args[-1], container)
        code = self.command(container)
        container["State"] = {"Running": False, "Status": "exited", "ExitCode": code}
        self.write(args[-1], container)
        return code

    def command(self, container: dict[str, Any]) -> int:
        folder = Path(container["entrypoint"])
        with (folder / "says").open("w") as file:
            if self.behaviour["ends_early"]:
                return 0
            file.writelines(f"{name} {word}\n" for name, word in self.behaviour["found"].items())
        words = (folder / "hears").read_text()
        script = f'{words}\n[ "$bottle_gate_open" = yes ] || exit 119\nexec "$@"'
        argv = ["/bin/sh", "-c", script, "sh", *container["command"]]
        with subprocess.Popen(argv, env={"PATH": os.environ["PATH"], **container["env"]}) as child:
            container["pid"] = child.pid
            self.write(f"bottle-{container['labels'][0].partition('=')[2]}", container)
            code = child.wait()
        return code if code >= 0 else 128 - code

    def kill(self, args: list[str]) -> int:
        number = signal.Signals[f"SIG{_option(args, '--signal')}"]
        os.kill(self.read(args[-1])["pid"], number)
        return 0

    def ps(self, args: list[str]) -> int:
        wanted = args[-1].partition("label=")[2]
        for path in (self.folder / "containers").iterdir():
            if wanted in json.loads(path.read_text())["labels"]:
                _say(path.stem)
        return 0

    def rm(self, args: list[str]) -> int:
        for name in (arg for arg in args if not arg.startswith("--")):
            (self.folder / "containers" / f"{name}.json").unlink(missing_ok=True)
            _say(name)
        return 0

    def read(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "containers" / f"{name}.json").read_text())
        return document

    def write(self, name: str, container: dict[str, Any]) -> None:
        path = self.folder / "containers" / f"{name}.json"
        path.with_suffix(".new").write_text(json.dumps(container))
        path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    if sys.argv[2] == "start":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command's own is sent by `kill`
    sys.exit(_Program(Path(sys.argv[1])).run(sys.argv[2:]))
