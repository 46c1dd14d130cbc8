"""A server of the virtio file system: a folder of this machine in a guest, as files of the bottle's user."""

SOCKET = "share.sock"  # to which QEMU connects, in its folder
