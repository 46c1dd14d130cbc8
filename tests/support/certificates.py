"""Certificates that openssl makes for a test."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certify(folder: Path, *alternatives: str) -> None:
    """Make `ca.pem`, an authority, and by it `leaf.pem` and `leaf.key` for these names or addresses.

    An alternative is `DNS:NAME` or `IP:ADDRESS`. Servers and clients may use it.
    """
    usage = "extendedKeyUsage=serverAuth,clientAuth"
    (folder / "ext").write_text(f"subjectAltName={','.join(alternatives)}\n{usage}\n")
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"{new} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=leaf -keyout leaf.key -out leaf.csr",
        "openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext "
        "-out leaf.pem",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=60)
