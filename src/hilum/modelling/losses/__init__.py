"""The losses, one in each file as in timm, and class weights."""

from hilum.modelling.losses.asymmetric import AsymmetricLoss
from hilum.modelling.losses.class_weights import class_weights
from hilum.modelling.losses.combined import CombinedLoss
from hilum.modelling.losses.cross_entropy import WeightedCrossEntropyLoss
from hilum.modelling.losses.dice import DiceLoss
from hilum.modelling.losses.focal import FocalLoss
from hilum.modelling.losses.ldam import LDAMLoss
from hilum.modelling.losses.logit_adjusted import LogitAdjustedLoss
from hilum.modelling.losses.poly import PolyLoss
from hilum.modelling.losses.tversky import TverskyLoss

__all__ = [
    "AsymmetricLoss", "CombinedLoss", "DiceLoss", "FocalLoss", "LDAMLoss", "LogitAdjustedLoss", "PolyLoss",
    "TverskyLoss", "WeightedCrossEntropyLoss", "class_weights",
]  # fmt: skip
