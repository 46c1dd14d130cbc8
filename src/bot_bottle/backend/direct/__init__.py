"""The backend that runs a bottle as a microVM which QEMU emulates."""
