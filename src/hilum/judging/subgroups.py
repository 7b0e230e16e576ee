"""Figures by subgroup: the columns of the table and the technical tags that divide the judged cases into groups."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from hilum.cohorts.cells import is_missing, is_size, number_in
from hilum.cohorts.labels import Labels
from hilum.judging.figures import Judgement, with_ends
from hilum.measuring.intervals import with_mean_auc, with_rates

MOST_GROUPS = 12
"""Largest number of groups of a column: more are identifiers or free text."""

FEWEST = 10
"""Fewest cases of a group with figures: those of fewer say nothing, and may tell who the patients are."""

_FEW_VALUES = 8
"""Largest number of different numbers that are groups by themselves, such as a score from 1 to 5."""

_AGE_BANDS = (40.0, 50.0, 60.0, 70.0, 80.0)

_PRIVATE = frozenset(
    [
        "id", "ids", "uid", "uids", "identifier", "pid", "mrn", "name", "names", "surname", "forename", "firstname",
        "lastname", "fullname", "accession", "birth", "birthday", "birthdate", "yob", "dob", "date", "dates", "day",
        "time", "datetime", "timestamp", "address", "street", "postcode", "zip", "phone", "email", "physician",
        "doctor", "operator", "technician", "comment", "comments", "remark", "remarks", "note", "notes", "path", "file",
        "filename", "url",
    ]
)  # fmt: skip
"""Words in the names of columns that identify patients or staff, say when something was, or hold free text."""

_OWNERS = frozenset(["patient", "patients", "subject", "study", "series", "exam", "examination", "case", "visit"])
_NUMBERS = frozenset(["no", "nr", "num", "number", "key", "code", "index"])
"""A column named by an owner and these words alone, such as PatientNo, identifies what it names."""

_MONTH = r"(jan|feb|mar|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*"
_DATE = re.compile(
    r"(\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|(19|20)\d{6}"
    rf"|\d{{1,2}}[ .-]*{_MONTH}[ .,-]*\d{{2,4}}|{_MONTH}[ .-]*\d{{1,2}}[ .,-]+\d{{2,4}})([T ,].*)?",
    re.IGNORECASE,
)
_YEAR_MONTH = re.compile(r"(19|20)\d{2}[-./]?(0[1-9]|1[0-2])")
_AGE = re.compile(r"(^|[\W_])age($|[\W_])", re.IGNORECASE)
MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseColumn:
    """One column of the cases, as numbers or as groups.

    Attributes:
        name: Its name.
        groups: Name of the group of each case.
        order: The groups in the order in which they are shown.
        numbers: Its numbers, nan where missing; None if it holds no measurements.
    """

    name: str
    groups: tuple[str, ...]
    order: tuple[str, ...]
    numbers: Float64[np.ndarray, " n"] | None = None

    @property
    def is_size(self) -> bool:
        """Whether its name says that it is the size of a lesion."""
        return self.numbers is not None and is_size(self.name)

    def rows(self, group: str) -> Bool[np.ndarray, " n"]:
        """The cases of a group."""
        return np.array([one == group for one in self.groups])


def columns_of(cells: Mapping[str, Sequence[str]]) -> tuple[list[CaseColumn], dict[str, str]]:
    """Divide the cases by each column, and the reason for each column that cannot divide them.

    A column of measurements is divided into bands of age, or at its thirds; any other into its distinct texts, of
    which there may be at most twelve. Columns of identifiers and dates are left out.

    Args:
        cells: Text of each case by the name of the column; empty where missing.
    """
    columns, left_out = [], {}
    for name, texts in cells.items():
        texts = ["" if is_missing(text) else text.strip() for text in texts]
        distinct = set(texts) - {""}
        if _is_private(name, distinct):
            left_out[name] = "identifiers, names, dates and free text are no subgroups"
            continue
        numbers = _numbers(texts)
        measured = numbers if len(distinct) > _FEW_VALUES else None
        if measured is None and len(distinct) > MOST_GROUPS:
            left_out[name] = f"it has {len(distinct)} different values; a subgroup has at most {MOST_GROUPS}"
        elif len(set(texts)) < 2:
            left_out[name] = "it is empty" if not distinct else "all cases have the same value"
        elif measured is not None:
            columns.append(_measured(name, measured))
        else:
            groups = tuple(text or MISSING for text in texts)
            columns.append(CaseColumn(name=name, groups=groups, order=tuple(sorted(set(groups), key=_place))))
    return columns, left_out


def _is_private(name: str, texts: Collection[str]) -> bool:
    """Whether a column seems to hold identifiers, names, dates or free text, by its name or its texts."""
    words = set(re.split(r"[\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())) - {""}
    if words & _PRIVATE or (words & _OWNERS and words <= _OWNERS | _NUMBERS):
        return True
    return any(_DATE.fullmatch(text) or "^" in text for text in texts) or (
        bool(texts) and all(map(_YEAR_MONTH.fullmatch, texts))
    )


def _numbers(texts: Sequence[str]) -> Float64[np.ndarray, " n"] | None:
    """The column as numbers, nan where it is missing; None if a cell is no finite number."""
    numbers = [math.nan if not text else number_in(text) for text in texts]
    known = [number for number in numbers if number is not None]
    return np.array(known) if len(known) == len(texts) and not all(map(math.isnan, known)) else None


def _measured(name: str, numbers: Float64[np.ndarray, " n"]) -> CaseColumn:
    known = numbers[np.isfinite(numbers)]
    if _AGE.search(name):
        edges: tuple[float, ...] = _AGE_BANDS
    else:
        edges = _thirds(known)
    band = np.searchsorted(edges, numbers, side="right")
    names = [f"below {edges[0]:.15g}", *(f"{a:.15g} to below {b:.15g}" for a, b in pairwise(edges))]
    names.append(f"{edges[-1]:.15g} or more")
    groups = tuple(names[k] if known else MISSING for k, known in zip(band, np.isfinite(numbers), strict=True))
    order = tuple(one for one in (*names, MISSING) if one in groups)
    return CaseColumn(name=name, groups=groups, order=order, numbers=numbers)


def _thirds(known: Float64[np.ndarray, " m"]) -> tuple[float, ...]:
    """Edges of thirds with as few digits as divide the numbers: no third is empty, unless the numbers are too alike."""
    exact = np.quantile(known, (1 / 3, 2 / 3))
    edges: tuple[float, ...] = ()
    for digits in range(3, 18):
        edges = tuple(dict.fromkeys(float(f"{edge:.{digits}g}") for edge in exact))
        sizes = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
        if sizes.min() > 0 and len(edges) == len(set(exact.tolist())):
            break
    return edges


def _place(group: str) -> tuple[bool, float, str]:
    """Groups in the order of their numbers, then of their texts; missing ones last."""
    try:
        return group == MISSING, float(group), group
    except ValueError:
        return group == MISSING, float("inf"), group


def subgroup_figures(
    columns: Sequence[CaseColumn],
    judged: Judgement,
    labels: Labels,
    probs: Float64[np.ndarray, "n c"],
    patients: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Counts and figures of each group of each column.

    Of two classes these are the AUC, and sensitivity and specificity of the decisions; of more classes or several
    labels the mean AUC over those that have cases with and without them in the group. Groups under ten cases have
    counts alone.
    """
    which = np.asarray(patients, dtype=str)
    of_two = len(judged.each) == 1
    present = labels if labels.ndim == 2 else np.eye(probs.shape[1], dtype=np.int64)[labels]
    found: dict[str, list[dict[str, Any]]] = {}
    for column in columns:
        found[column.name] = []
        for group in column.order:
            rows = column.rows(group)
            about: dict[str, Any] = {
                "group": group,
                "num_cases": int(rows.sum()),
                "num_patients": len(set(which[rows])),
            }
            if of_two:
                about["num_positives"] = int(np.sum(labels[rows] == 1))
            if about["num_cases"] >= FEWEST:
                inside = which[rows].tolist()
                if of_two:
                    one = judged.each[0]
                    figures = with_rates(
                        labels[rows], probs[rows, 1], called=one.called[rows], is_decided=one.is_decided[rows],
                        patients=inside,
                    )  # fmt: skip
                else:
                    figures = {"mean_auc": with_mean_auc(present[rows], probs[rows], patients=inside)}
                about |= with_ends(figures)
            found[column.name].append(about)
    return found
