"""This machine: processes, signals, locks, files, folders, progress. Knows nothing of images or bottles."""
