"""podman of another Debian suite, with a storage that belongs to this checkout.

A small program in front of it names its helpers, which lie beside it and not where it looks for them. Its
runtime is runc, since crun refuses machines whose cgroups are of both versions.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from private_engine.catalog import Entry
from private_engine.places import CACHE, remove, run_folder, write
from private_engine.suite import Suite


class PrivatePodman:
    """The podman of an entry of the catalog."""

    def __init__(self, entry: Entry) -> None:
        self.suite = Suite(entry.suite)
        self.data = CACHE / "engines" / entry.name
        self.run = run_folder(entry.name)
        self.program = self.data / "bin" / "podman"

    def install(self) -> Path:
        """Write the program and its settings, and return the folder to have on PATH."""
        helpers, storage = self.data / "helpers.conf", self.data / "storage.conf"
        usr = self.suite.root / "usr"
        write(
            helpers,
            f'[containers]\ninit_path = "{usr}/bin/catatonit"\n'
            f'seccomp_profile = "{usr}/share/containers/seccomp.json"\n'
            '[network]\nfirewall_driver = "none"\n'  # this machine's firewall is not for it
            f'[engine]\nruntime = "runc"\nconmon_path = ["{usr}/bin/conmon"]\n'
            f'helper_binaries_dir = ["{usr}/lib/podman", "{usr}/libexec/podman", "{usr}/bin"]\n'
            f'[engine.runtimes]\nrunc = ["{usr}/sbin/runc"]\n',
        )
        write(
            storage,
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.data}/root"\nrunroot = "{self.run}"\n',
        )
        write(
            self.program,
            "#!/bin/sh\n"
            f'export CONTAINERS_CONF_OVERRIDE="${{CONTAINERS_CONF_OVERRIDE:-{helpers}}}"\n'
            f'export CONTAINERS_STORAGE_CONF="${{CONTAINERS_STORAGE_CONF:-{storage}}}"\n'
            f'exec {usr}/bin/podman "$@"\n',
            0o755,
        )
        return self.program.parent

    def clean(self) -> None:
        """Remove all that it keeps, and the containers that run."""
        if self.run.is_dir():
            command = [str(self.program), "rm", "--all", "--force", "--time=0"]
            subprocess.run(command, check=False, capture_output=True)
            remove(self.run)
        remove(self.data)
