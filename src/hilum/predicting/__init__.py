"""Predicts scans with a model folder, and exports models."""

from hilum.predicting.predictor import Prediction, Predictor
from hilum.predicting.tables import predict_prepared, predict_table

__all__ = ["Prediction", "Predictor", "predict_prepared", "predict_table"]
