"""What a bottle sees of a repository, and how its work is brought back."""
