"""Container engines that belong to this checkout alone: how they are fetched, started, shared and ended."""
