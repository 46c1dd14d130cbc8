"""Logins of agents: which there are, their values in force, and how these are refreshed."""
