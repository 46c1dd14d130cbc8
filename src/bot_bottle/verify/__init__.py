"""An independent check that an artifact holds what its image holds."""
