"""What the process that confines QEMU and the one that starts it agree upon."""

from __future__ import annotations

REPORT = "confinement.json"  # in QEMU's folder: what is in force
FAILED = 125  # the exit status when the confinement that was asked for cannot be had

# where QEMU listens for published ports: the way that the guest has leads to the other address
PUBLISHED = "127.0.0.2"

# programs' libraries, and files that they read, where they exist
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/etc/ld.so.cache")
