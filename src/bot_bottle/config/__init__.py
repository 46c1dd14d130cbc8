"""bottle.toml and devcontainer.json: the settings of a repository, below flags and environment."""
