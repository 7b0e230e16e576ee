"""Hilum: chest CT scans and a table of labels to a 3D ResNet classifier that can be trusted.

The names below are the Python API; each is loaded when it is first used, so that ``import hilum`` is quick.
"""

import importlib
from typing import Any

_HOME = {
    "Augment": "modelling.augmenting.augment",
    "AsymmetricLoss": "modelling.losses",
    "AugmentConfig": "settings.augmentation",
    "Cohort": "cohorts.table",
    "CombinedLoss": "modelling.losses",
    "DiceLoss": "modelling.losses",
    "Finding": "findings",
    "FocalLoss": "modelling.losses",
    "HilumError": "errors",
    "LDAMLoss": "modelling.losses",
    "LogitAdjustedLoss": "modelling.losses",
    "PolyLoss": "modelling.losses",
    "Prediction": "predicting",
    "Predictor": "predicting",
    "ReadingConfig": "settings.run",
    "Recipe": "settings.run",
    "ResNet3D": "modelling.resnet",
    "RunConfig": "settings.run",
    "Store": "preparing",
    "TverskyLoss": "modelling.losses",
    "Volume": "volume",
    "WeightedCrossEntropyLoss": "modelling.losses",
    "advise": "planning.advise",
    "class_weights": "modelling.losses",
    "evaluate": "judging",
    "examine": "reading.doctor",
    "prepare": "preparing",
    "read": "reading.reader",
    "resample": "preparing",
    "segment_lungs": "preparing",
    "simulate_scan": "simulating",
    "load_weights": "modelling.weights",
    "resnet10_3d": "modelling.resnet",
    "resnet18_3d": "modelling.resnet",
    "resnet34_3d": "modelling.resnet",
    "resnet50_3d": "modelling.resnet",
    "resnet101_3d": "modelling.resnet",
    "resnet152_3d": "modelling.resnet",
    "resnet200_3d": "modelling.resnet",
    "train": "training.train",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'hilum' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"hilum.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
