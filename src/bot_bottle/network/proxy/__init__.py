"""The forward proxy of one bottle: its only way out, run outside of it, for it alone."""
