"""What the commands of scripts/engine fail with."""


class Failure(Exception):
    """Say what is wrong (the first argument), and what to do next (the second)."""
