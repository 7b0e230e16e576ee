"""Weights from files, also of other projects."""

from hilum.modelling.weights.matching import load_weights

__all__ = ["load_weights"]
