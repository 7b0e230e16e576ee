"""Predicts scans with a model folder, and exports models."""

from hilum.predicting.predictor import Prediction, Predictor
from hilum.predicting.tables import logits_of_prepared, predict_prepared, predict_table

__all__ = ["Prediction", "Predictor", "logits_of_prepared", "predict_prepared", "predict_table"]
