"""Secrets in what is about to travel: looked for in layers, artifacts and the settings of images."""
