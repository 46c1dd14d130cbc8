"""The profiles that come with bottle, as data."""
