"""Image to artifact: exported from its engine, flattened, packed."""
