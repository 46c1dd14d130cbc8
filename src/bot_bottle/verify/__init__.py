"""An independent check that an artifact has the content of its image."""
