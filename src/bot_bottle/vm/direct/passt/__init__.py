"""The open network of a guest that QEMU runs: through the program passt, and a filter of ours before it."""

SOCKET = "network.socket"  # in QEMU's folder
