"""What a report on a medical classifier must tell, and where in the page it stands.

The items follow CLAIM in its update of 2024 (Tejani et al., Radiology: Artificial Intelligence 6, e240300) and
TRIPOD+AI (Collins et al., BMJ 385, e078378, 2024), in our own words and together where both ask for the same. Only what
somebody wrote or Hilum measured counts: all else is missing, and is for the author of a paper to add.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
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
    Item(about="Introduction", text="Intended use and the people it is meant for", source=_BOTH, place="intended-use"),
    Item(about="Introduction", text="Clinical background, existing models and health inequalities", source=_BOTH),
    Item(about="Introduction", text="Aims and hypotheses of the study", source=_BOTH),
    Item(about="Data", text="Prospective or retrospective; dates and places of collection", source=_BOTH),
    Item(about="Data", text="How patients were eligible and selected, and treatments they received", source=_BOTH),
    Item(about="Data", text="Flow of rows and scans to the judged cases", source=_BOTH, place="flow"),
    Item(about="Data", text="How scans were read, checked, repaired and prepared", source=_BOTH, place="card"),
    Item(about="Data", text="Scanners, kernels and slice thicknesses", source=_CLAIM, place="subgroups"),
    Item(about="Data", text="De-identification", source=_CLAIM, place="privacy"),
    Item(about="Data", text="Missing and extreme values, and what was done with them", source=_BOTH, place="audit"),
    Item(
        about="Labels", text="Who or what decided the labels, and on what evidence", source=_BOTH, place="label-origin"
    ),
    Item(about="Labels", text="Agreement of those who labelled", source=_CLAIM),
    Item(about="Partitions", text="How cases were assigned to parts", source=_BOTH, place="table-1"),
    Item(
        about="Partitions",
        text="Parts disjoint by patient, and looked through for copies",
        source=_CLAIM,
        place="audit",
    ),
    Item(
        about="Partitions",
        text="Size of the test, and what it could have shown",
        source=_BOTH,
        place="smallest-difference",
    ),
    Item(about="Model", text="Network, input and output", source=_BOTH, place="card"),
    Item(about="Model", text="Software and versions", source=_BOTH, place="card"),
    Item(
        about="Model",
        text="Initial weights, training settings, selection of the final model",
        source=_BOTH,
        place="card",
    ),
    Item(about="Model", text="Class imbalance and how it was met", source=_TRIPOD, place="card"),
    Item(about="Model", text="Course of training", source=_BOTH, place="training"),
    Item(about="Model", text="Calibration, thresholds and how they were chosen", source=_BOTH, place="card"),
    Item(about="Evaluation", text="Measures of discrimination with uncertainty", source=_BOTH, place="figures"),
    Item(about="Evaluation", text="Calibration: curve, slope and intercept", source=_TRIPOD, place="figures"),
    Item(about="Evaluation", text="Net benefit of decisions", source=_TRIPOD, place="decision-curve"),
    Item(about="Evaluation", text="Cases without a decision", source=_CLAIM, place="undecided"),
    Item(
        about="Evaluation", text="Comparison with something simpler on the same cases", source=_BOTH, place="baselines"
    ),
    Item(
        about="Evaluation", text="Differences between groups of patients and scanners", source=_BOTH, place="subgroups"
    ),
    Item(about="Evaluation", text="Robustness and sensitivity analyses", source=_CLAIM, place="size-matched"),
    Item(about="Evaluation", text="Explanation of decisions", source=_CLAIM, place="explanations"),
    Item(about="Evaluation", text="Test on patients of another place or time", source=_BOTH),
    Item(about="Results", text="Patients of each part and their characteristics", source=_BOTH, place="table-1"),
    Item(about="Results", text="Failures: the cases in which it was most wrong", source=_CLAIM, place="errors"),
    Item(about="Results", text="Updating of the model for another place", source=_TRIPOD, place="recalibrated"),
    Item(about="Discussion", text="Interpretation, limitations and consequences for practice", source=_BOTH),
    Item(about="Other", text="Ethics approval, registration, protocol, involvement of patients, funding", source=_BOTH),
    Item(about="Other", text="Availability of data, code and model", source=_BOTH),
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
