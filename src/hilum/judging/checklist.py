"""What a report on a medical classifier must tell, and where in the page it stands.

The items follow CLAIM in its update of 2024 (Tejani et al., Radiology: Artificial Intelligence 6, e240300) and
TRIPOD+AI (Collins et al., BMJ 385, e078378, 2024), in our own words and together where both ask for the same. Only what
somebody wrote or Hilum measured counts: all else is missing, and is for the author of a paper to add.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecklistItem:
    """One thing that a report must tell.

    Attributes:
        about: Part of the report.
        text: What it must tell.
        source: The checklists that ask for it.
        place: Section of the page that tells it, if it does; empty: no page of Hilum can.
    """

    about: str
    text: str
    source: str
    place: str = ""


_CLAIM, _TRIPOD, _BOTH = "CLAIM", "TRIPOD+AI", "CLAIM, TRIPOD+AI"

ITEMS = (
    ChecklistItem(
        about="Introduction", text="Intended use and the people it is meant for", source=_BOTH, place="intended-use"
    ),
    ChecklistItem(
        about="Introduction", text="Clinical background, existing models and health inequalities", source=_BOTH
    ),
    ChecklistItem(about="Introduction", text="Aims and hypotheses of the study", source=_BOTH),
    ChecklistItem(about="Data", text="Prospective or retrospective; dates and places of collection", source=_BOTH),
    ChecklistItem(
        about="Data", text="How patients were eligible and selected, and treatments they received", source=_BOTH
    ),
    ChecklistItem(about="Data", text="Flow of rows and scans to the judged cases", source=_BOTH, place="flow"),
    ChecklistItem(about="Data", text="How scans were read, checked, repaired and prepared", source=_BOTH, place="card"),
    ChecklistItem(about="Data", text="Scanners, kernels and slice thicknesses", source=_CLAIM, place="subgroups"),
    ChecklistItem(about="Data", text="De-identification", source=_CLAIM, place="privacy"),
    ChecklistItem(
        about="Data", text="Missing and extreme values, and what was done with them", source=_BOTH, place="audit"
    ),
    ChecklistItem(
        about="Labels", text="Who or what decided the labels, and on what evidence", source=_BOTH, place="label-origin"
    ),
    ChecklistItem(about="Labels", text="Agreement of those who labelled", source=_CLAIM),
    ChecklistItem(about="Partitions", text="How cases were assigned to parts", source=_BOTH, place="table-1"),
    ChecklistItem(
        about="Partitions",
        text="Parts disjoint by patient, and looked through for copies",
        source=_CLAIM,
        place="audit",
    ),
    ChecklistItem(
        about="Partitions",
        text="Size of the test, and what it could have shown",
        source=_BOTH,
        place="smallest-difference",
    ),
    ChecklistItem(about="Model", text="Network, input and output", source=_BOTH, place="card"),
    ChecklistItem(about="Model", text="Software and versions", source=_BOTH, place="card"),
    ChecklistItem(
        about="Model",
        text="Initial weights, training settings, selection of the final model",
        source=_BOTH,
        place="card",
    ),
    ChecklistItem(about="Model", text="Class imbalance and how it was met", source=_TRIPOD, place="card"),
    ChecklistItem(about="Model", text="Course of training", source=_BOTH, place="training"),
    ChecklistItem(about="Model", text="Calibration, thresholds and how they were chosen", source=_BOTH, place="card"),
    ChecklistItem(
        about="Evaluation", text="Measures of discrimination with uncertainty", source=_BOTH, place="figures"
    ),
    ChecklistItem(about="Evaluation", text="Calibration: curve, slope and intercept", source=_TRIPOD, place="figures"),
    ChecklistItem(about="Evaluation", text="Net benefit of decisions", source=_TRIPOD, place="decision-curve"),
    ChecklistItem(about="Evaluation", text="Cases without a decision", source=_CLAIM, place="undecided"),
    ChecklistItem(
        about="Evaluation", text="Comparison with something simpler on the same cases", source=_BOTH, place="baselines"
    ),
    ChecklistItem(
        about="Evaluation", text="Differences between groups of patients and scanners", source=_BOTH, place="subgroups"
    ),
    ChecklistItem(about="Evaluation", text="Robustness and sensitivity analyses", source=_CLAIM, place="size-matched"),
    ChecklistItem(about="Evaluation", text="Explanation of decisions", source=_CLAIM, place="explanations"),
    ChecklistItem(about="Evaluation", text="Test on patients of another place or time", source=_BOTH),
    ChecklistItem(
        about="Results", text="Patients of each part and their characteristics", source=_BOTH, place="table-1"
    ),
    ChecklistItem(
        about="Results", text="Failures: the cases in which it was most wrong", source=_CLAIM, place="errors"
    ),
    ChecklistItem(
        about="Results", text="Updating of the model for another place", source=_TRIPOD, place="recalibrated"
    ),
    ChecklistItem(about="Discussion", text="Interpretation, limitations and consequences for practice", source=_BOTH),
    ChecklistItem(
        about="Other", text="Ethics approval, registration, protocol, involvement of patients, funding", source=_BOTH
    ),
    ChecklistItem(about="Other", text="Availability of data, code and model", source=_BOTH),
)


def checked(places: Collection[str]) -> list[Mapping[str, str]]:
    """All items with the section of the page that tells them, or an empty place where it is missing."""
    return [
        {
            "about": item.about,
            "text": item.text,
            "source": item.source,
            "place": item.place if item.place in places else "",
        }
        for item in ITEMS
    ]
