"""The shell scripts that run inside an emulated host, as data."""
