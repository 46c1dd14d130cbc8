"""Secrets by reference, and how a value reaches the process that needs it."""
