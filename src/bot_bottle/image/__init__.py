"""Where an image comes from: the engine, an archive, a layout; and its one root filesystem."""

FLATTEN_VERSION = 2
"""Goes up whenever the same image would give another root filesystem."""
