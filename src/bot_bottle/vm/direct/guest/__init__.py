"""The guest's own files, and their paths in it."""

INIT = "/bottle/init.sh"
DISKS = "/bottle/disks"
TOOLKIT = "/toolkit"  # busybox and its loader, as the probes want them
ROOT = "/rootfs"
STORAGE = "/storage"
SHARE = "/run/share"
BUNDLE = "ca.pem"  # of authorities, in TOOLKIT
