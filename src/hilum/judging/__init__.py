"""Judging: predictions to figures, pictures and pages that a reader can check."""

from hilum.judging.evaluate import evaluate, headline
from hilum.judging.judge import judge

__all__ = ["evaluate", "headline", "judge"]
