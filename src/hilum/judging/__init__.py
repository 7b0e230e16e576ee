"""Judges predictions: figures with intervals, pictures, and a row for each case."""

from hilum.judging.evaluate import evaluate, headline
from hilum.judging.judge import judge
from hilum.judging.recalibrate import recalibrate

__all__ = ["evaluate", "headline", "judge", "recalibrate"]
