"""How a bottle runs."""
