"""Agents: what is to be known of each, its packages, and the layer that is made of them."""
