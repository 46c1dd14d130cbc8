"""This machine: processes, signals, locks, files, folders, progress. Independent of images and bottles."""
