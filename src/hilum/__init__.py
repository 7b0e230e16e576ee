"""Hilum: chest CT scans and a table of labels to a 3D ResNet classifier that can be trusted.

The names below are the Python API; each is loaded when it is first used, so that ``import hilum`` is quick.
"""

import importlib
from typing import Any

_HOME = {
    "Augment": "modelling.augment",
    "AsymmetricLoss": "modelling.losses",
    "AugmentConfig": "augmentation",
    "Cohort": "cohorts.table",
    "CombinedLoss": "modelling.losses",
    "DiceLoss": "modelling.losses",
    "Finding": "findings",
    "FocalLoss": "modelling.losses",
    "HilumError": "errors",
    "Prediction": "predicting",
    "Predictor": "predicting",
    "ReadingConfig": "config",
    "Recipe": "config",
    "ResNet3D": "modelling.resnet",
    "RunConfig": "config",
    "Store": "preparing",
    "TverskyLoss": "modelling.losses",
    "Volume": "volume",
    "WeightedCrossEntropyLoss": "modelling.losses",
    "advise": "planning.advise",
    "class_weights": "modelling.class_weights",
    "evaluate": "judging",
    "examine": "reading",
    "prepare": "preparing",
    "read": "reading",
    "resample": "preparing",
    "segment_lungs": "preparing",
    "simulate_scan": "simulating",
    "train": "training",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'hilum' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"hilum.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
