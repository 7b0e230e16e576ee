"""Explains a prediction: which parts of a scan it depends on, and whether such a map can be believed.

``scan.explain_scan`` is not loaded here: it draws, and a service does not.
"""

from hilum.predicting.explain.explainer import explain
from hilum.predicting.explain.heat_map import HeatMap
from hilum.settings.explain import ExplainConfig

__all__ = ["ExplainConfig", "HeatMap", "explain"]
