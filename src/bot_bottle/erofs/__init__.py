"""EROFS, the kernel's read-only file system: written from a tar without root or tools, and read."""
