"""Turns logits into decisions: model folder, inference, calibration and thresholds."""
