"""Judges predictions: figures with intervals, pictures, a row for each case, and a report."""

from hilum.judging.compare import compare
from hilum.judging.evaluate import evaluate
from hilum.judging.headline import headline
from hilum.judging.judge import judge
from hilum.judging.recalibrate import recalibrate
from hilum.judging.report import report

__all__ = ["compare", "evaluate", "headline", "judge", "recalibrate", "report"]
