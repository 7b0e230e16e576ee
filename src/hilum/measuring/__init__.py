"""Figures with intervals from arrays of labels and probabilities; NumPy and SciPy only."""
