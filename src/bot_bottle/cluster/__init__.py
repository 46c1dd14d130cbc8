"""Bottles on the nodes of a Ray cluster. Ray itself is only imported where a cluster is named."""
