"""The version of bot-bottle: the only place where it stands."""

VERSION = "0.1.0"
