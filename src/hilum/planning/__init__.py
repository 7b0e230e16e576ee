"""A table and the scans it names to settings for training, each with its reason."""
