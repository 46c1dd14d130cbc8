"""docker and podman through their command lines, and their storage where it can be read directly."""
