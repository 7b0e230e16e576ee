"""Measuring: arrays of labels and probabilities to figures with intervals; NumPy only."""
