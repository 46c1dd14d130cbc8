"""The `.smolmachine` file format: read, written and verified."""
