"""What the tests of the proxy share."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

NAMES = ("api.example.org", "other.example.org", "proxy.example.org", "localhost")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for NAMES, its own authority, and its key."""
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    argv = [*key.split(), "-addext", f"subjectAltName={names}", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path
