"""Finds secrets in image layers, image settings and artifacts."""
