"""What is claimed of speed and size, measured: each figure a ratio within one run. `make bench` runs all."""
