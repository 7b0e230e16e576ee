"""An evaluation as a dictionary that notebooks show as a table of its main figures."""

from typing import Any

from hilum.judging.headline import headline
from hilum.judging.report_words import NAMES, figure_text
from hilum.pages import notebook_card

_SHOWN = (
    "auc", "macro_auc", "average_precision", "macro_average_precision", "sensitivity", "specificity",
    "balanced_accuracy", "macro_balanced_accuracy", "brier", "macro_brier", "calibration_slope",
)  # fmt: skip
_OF_EACH = ("auc", "average_precision", "sensitivity", "specificity")


class EvaluationFigures(dict[str, Any]):
    """Content of ``evaluation.json``."""

    def _repr_html_(self) -> str:
        """The main figures with their intervals, by class or label too, for notebooks."""
        rows = [[NAMES[name], figure_text(self, name)] for name in _SHOWN if self.get(name) is not None]
        each = self.get("by_label") or self.get("by_class") or {}
        tables = [(["figure", "value (95 % interval, by patient)"], rows)]
        if each:
            header = ["label" if "by_label" in self else "class", *(NAMES[name] for name in _OF_EACH)]
            tables.append((header, [[name, *(figure_text(one, f) for f in _OF_EACH)] for name, one in each.items()]))
        counts = [(self.get(f"num_{what}s", 0), what) for what in ("case", "patient")]
        title = " of ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts)
        return notebook_card(title, facts=[headline(self)] if self else [], tables=tables)
