"""What a report on a medical classifier must tell, and where in the page it stands.

The items follow CLAIM in its update of 2024 (Tejani et al., Radiology: Artificial Intelligence 6, e240300) and
TRIPOD+AI (Collins et al., BMJ 385, e078378, 2024), in our own words and together where both ask for the same. Only what
somebody wrote or Hilum measured counts: all else is missing, and is for the author of a paper to add.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Literal

from hilum.judging.evaluation_folder import EvaluationFolder
from hilum.judging.figures import Evaluation

_SCANNER = ("kernel", "manufacturer", "scanner model", "slice thickness, mm")
"""Columns that come from the scans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecklistItem:
    """One thing that a report must tell.

    Attributes:
        about: Part of the report.
        text: What it must tell.
        source: The checklists that ask for it.
        place: Section of the page that tells it; empty: no page of Hilum can.
        is_told: Whether an evaluation tells it there.
        needs: What else the page must show for that; empty: nothing.
    """

    about: str
    text: str
    source: str
    place: str = ""
    is_told: Callable[[Evaluation], bool] = lambda _: True
    needs: Literal["", "training", "maps"] = ""


def _has(*path: str) -> Callable[[Evaluation], bool]:
    """Whether an evaluation has a value that is not empty at a path of keys."""

    def look(evaluation: Evaluation) -> bool:
        value: object = evaluation
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return bool(value)

    return look


def _any_output(name: str) -> Callable[[Evaluation], bool]:
    """Whether a figure exists for any class or label."""

    def look(evaluation: Evaluation) -> bool:
        each = evaluation.get("by_class") or evaluation.get("by_label") or {"": evaluation}
        return any(one.get(name) is not None for one in each.values())

    return look


def _has_scanner(evaluation: Evaluation) -> bool:
    return bool(set(_SCANNER) & evaluation["subgroups"].keys() | set(_SCANNER) & evaluation["no_subgroups"].keys())


def is_compared(evaluation: Evaluation) -> bool:
    """Whether the cases were compared with those that trained the model, in all that an audit compares."""
    audit = evaluation.get("audit") or {"notes": ["no audit"]}
    return bool(evaluation.get("leaks_compared")) and not audit["notes"] and not evaluation.get("unchecked")


_CLAIM, _TRIPOD, _BOTH = "CLAIM", "TRIPOD+AI", "CLAIM, TRIPOD+AI"
_MODEL, _TRAINING = _has("model", "network"), _has("model", "training", "settings")

ITEMS = (
    ChecklistItem(
        about="Introduction", text="Intended use and the people it is meant for", source=_BOTH, place="intended-use",
        is_told=_has("model", "training", "statements", "intended_use"),
    ),
    ChecklistItem(about="Introduction", text="Clinical background, existing models, health inequalities", source=_BOTH),
    ChecklistItem(about="Introduction", text="Aims and hypotheses of the study", source=_BOTH),
    ChecklistItem(about="Data", text="Prospective or retrospective; dates and places of collection", source=_BOTH),
    ChecklistItem(about="Data", text="How patients were eligible and selected; treatments they received", source=_BOTH),
    ChecklistItem(
        about="Data", text="Flow of rows and scans to the judged cases", source=_BOTH, place="flow",
        is_told=_has("cohort"),
    ),
    ChecklistItem(
        about="Data", text="How scans were prepared for the model", source=_BOTH, place="card",
        is_told=_has("model", "recipe"),
    ),
    ChecklistItem(
        about="Data", text="Scanners, kernels and slice thicknesses", source=_CLAIM, place="subgroups",
        is_told=_has_scanner,
    ),
    ChecklistItem(about="Data", text="How the data were de-identified", source=_CLAIM),
    ChecklistItem(
        about="Data", text="Missing and extreme values", source=_BOTH, place="audit", is_told=_has("audit"),
    ),
    ChecklistItem(
        about="Labels", text="Who or what decided the labels, and on what evidence", source=_BOTH, place="label-origin",
        is_told=_has("model", "training", "statements", "label_origin"),
    ),
    ChecklistItem(about="Labels", text="Agreement of those who labelled", source=_CLAIM),
    ChecklistItem(
        about="Partitions", text="The parts and their sizes", source=_BOTH, place="table-1",
        is_told=_has("cohort", "table_one", "parts"),
    ),
    ChecklistItem(
        about="Partitions", text="Parts disjoint by patient, and looked through for copies", source=_CLAIM,
        place="audit", is_told=is_compared,
    ),
    ChecklistItem(
        about="Partitions", text="Size of the test, and what it could have shown", source=_BOTH,
        place="smallest-difference", is_told=_any_output("smallest_difference"),
    ),
    ChecklistItem(about="Model", text="Network, input and output", source=_BOTH, place="card", is_told=_MODEL),
    ChecklistItem(
        about="Model", text="Software and its version", source=_BOTH, place="card", is_told=_has("model", "version"),
    ),
    ChecklistItem(
        about="Model", text="Training settings and the kept epoch", source=_BOTH, place="card", is_told=_TRAINING,
    ),
    ChecklistItem(
        about="Model", text="Class imbalance and how it was met", source=_TRIPOD, place="card", is_told=_TRAINING,
    ),
    ChecklistItem(about="Model", text="Course of training", source=_BOTH, place="training", needs="training"),
    ChecklistItem(
        about="Model", text="Calibration, thresholds and how they were chosen", source=_BOTH, place="card",
        is_told=_has("model", "decisions", "each"),
    ),
    ChecklistItem(
        about="Evaluation", text="Measures of discrimination with uncertainty", source=_BOTH, place="figures",
        is_told=_any_output("auc"),
    ),
    ChecklistItem(
        about="Evaluation", text="Calibration: curve, slope and intercept", source=_TRIPOD, place="figures",
        is_told=_any_output("calibration_slope"),
    ),
    ChecklistItem(
        about="Evaluation", text="Net benefit of decisions", source=_TRIPOD, place="decision-curve",
        is_told=_any_output("auc"),
    ),
    ChecklistItem(about="Evaluation", text="Cases without a decision", source=_CLAIM, place="undecided"),
    ChecklistItem(
        about="Evaluation", text="Comparison with something simpler on the same cases", source=_BOTH, place="baselines",
        is_told=_has("baselines"),
    ),
    ChecklistItem(
        about="Evaluation", text="Differences between groups of patients and scanners", source=_BOTH, place="subgroups",
        is_told=_has("subgroups"),
    ),
    ChecklistItem(
        about="Evaluation", text="Robustness: cases of one size", source=_CLAIM, place="size-matched",
        is_told=_has("size_matched"),
    ),
    ChecklistItem(
        about="Evaluation", text="Explanation of decisions", source=_CLAIM, place="errors", needs="maps",
    ),
    ChecklistItem(about="Evaluation", text="Test on patients of another place or time", source=_BOTH),
    ChecklistItem(
        about="Results", text="Patients of each part and their characteristics", source=_BOTH, place="table-1",
        is_told=_has("cohort", "table_one", "columns"),
    ),
    ChecklistItem(about="Results", text="Failures: the most certain errors", source=_CLAIM, place="errors"),
    ChecklistItem(
        about="Results", text="Updating of the model for another place", source=_TRIPOD, place="recalibrated",
        is_told=_has("model", "training", "recalibrated"),
    ),
    ChecklistItem(about="Discussion", text="Interpretation, limitations, consequences for practice", source=_BOTH),
    ChecklistItem(about="Other", text="Ethics approval, registration, protocol, patients' part, funding", source=_BOTH),
    ChecklistItem(about="Other", text="Availability of data, code and model", source=_BOTH),
)  # fmt: skip


def checked(judged: EvaluationFolder, shown: Container[str]) -> list[Mapping[str, str]]:
    """All items with the section of the page that tells them, or an empty place where it is missing.

    Args:
        judged: The evaluation.
        shown: What of ``training``, its course, and ``maps`` of decisions the page shows.
    """
    rows: list[Mapping[str, str]] = []
    for item in ITEMS:
        is_told = item.is_told(judged.evaluation) and (not item.needs or item.needs in shown)
        rows.append(
            {"about": item.about, "text": item.text, "source": item.source, "place": item.place if is_told else ""}
        )
    return rows
