"""Artifacts in OCI registries: pushed, pulled, signed, and found there by the cache's key."""
