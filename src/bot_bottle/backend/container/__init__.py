"""The backend that runs a bottle as a hardened container."""
