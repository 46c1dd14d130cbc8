"""A tar reader for hostile input: bounded headers, sparse files, and archives that arrive through a pipe."""
