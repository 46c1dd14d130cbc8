"""Artifacts found again by everything that decides their bytes."""
