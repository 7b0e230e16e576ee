"""Logits to a decision that travels with the weights: model folder, inference, calibration, thresholds."""
