"""Explains a prediction: which parts of a scan it depends on, and whether such a map can be believed."""

from hilum.predicting.explain.explainer import explain
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.explain.scan import explain_scan
from hilum.settings.explain import ExplainConfig

__all__ = ["ExplainConfig", "HeatMap", "explain", "explain_scan"]
