"""A microVM that QEMU emulates, without a host in between: smolvm's kernel and guest system, our own init."""
