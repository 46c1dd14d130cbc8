"""The layers of an image, applied in order, as one root filesystem."""

FLATTEN_VERSION = 3
"""Increased whenever the same image would give another root filesystem, or another manifest."""
