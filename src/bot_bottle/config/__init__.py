"""bottle.toml: what a repository says of its bottle, and how flags and environment go over it."""
