"""The artifact: the `.smolmachine` file, the packers that make it, the cache that keeps it."""
