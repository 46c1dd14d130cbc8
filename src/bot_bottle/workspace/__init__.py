"""What of a repository a bottle sees, and how its work comes back."""
