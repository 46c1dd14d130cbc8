"""Local images for tools that take only registry references."""
