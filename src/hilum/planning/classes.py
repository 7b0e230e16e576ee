"""Class counts of a table, by patient and by case, and the precision that this many patients allow."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped

from hilum.cohorts.labels import labels_of
from hilum.cohorts.sampling import rarest
from hilum.cohorts.table import PARTS, Cohort
from hilum.measuring.roc_variance import expected_auc_half_width
from hilum.settings.run import SplitConfig

FEW = 20
"""Least number of patients of a class with which a classifier can be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class, or one label of a multi-label cohort.

    Attributes:
        name: Its name in the table.
        cases: Number of cases of this class, or with this label.
        patients: Number of patients with such a case.
        rare: Name of the rarer side: the class or the label; "no X" if most cases have label X.
        rare_cases: Cases of the rarer side.
        rare_patients: Patients with such a case.
        share: The share of the rarer side, of patients or of cases, whichever is smaller.
        val_patients: Its patients in the validation part, on which calibration and threshold rest.
        auc_all: Expected half width of the 95 % interval of an AUC of 0.85 (class against the rest), on all patients.
        auc_test: The same, on the test part.
        drawn: For a label, the cases that sampling counts for it because it is their rarest; for a class None.
    """

    name: str
    cases: int
    patients: int
    rare: str
    rare_cases: int
    rare_patients: int
    share: float
    val_patients: int
    auc_all: float
    auc_test: float
    drawn: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """All classes, or labels, of a cohort.

    Attributes:
        rows: The classes, in the order of the model's outputs.
        num_cases: Cases of the cohort.
        num_patients: Patients of the cohort; one may have cases of several classes.
        multi_label: Whether the rows are labels that do not exclude one another.
        test_part: A description of the test part.
    """

    rows: tuple[ClassRow, ...]
    num_cases: int
    num_patients: int
    multi_label: bool
    test_part: str

    @property
    def is_binary(self) -> bool:
        """Whether there are two exclusive classes."""
        return len(self.rows) == 2 and not self.multi_label

    @property
    def has_thresholds(self) -> bool:
        """Whether a threshold decides; of more than two exclusive classes the most probable one is taken."""
        return self.is_binary or self.multi_label

    @property
    def kind(self) -> str:
        """'label' in a multi-label cohort, else 'class'."""
        return "label" if self.multi_label else "class"

    @property
    def plural(self) -> str:
        """The plural of ``kind``."""
        return "labels" if self.multi_label else "classes"

    @property
    def rarest(self) -> ClassRow:
        """The row by which the loss is chosen; of two that are equally rare the later one, usually the positives."""
        return min(reversed(self.rows), key=lambda row: (row.share, row.rare_patients))

    @property
    def ratio(self) -> float:
        """Patients of the commonest class divided by those of the rarest; infinite if a class has none."""
        patients = [row.patients for row in self.rows]
        return max(patients) / min(patients) if min(patients) else math.inf

    @property
    def share_of_rarest(self) -> str:
        """The share of the rarest class in words, by patients or by cases, whichever is smaller."""
        row = self.rarest
        by_cases = row.rare_cases / self.num_cases < row.rare_patients / self.num_patients
        count, of = (row.rare_cases, self.num_cases) if by_cases else (row.rare_patients, self.num_patients)
        return f"{row.rare} has {count:,} of {of:,} {'cases' if by_cases else 'patients'} ({percent(row.share)})"

    def sample_size(self) -> str:
        """The precision of an AUC that the patients of the rarest class allow."""
        row = min(reversed(self.rows), key=lambda one: one.rare_patients)
        patients = f"{row.rare_patients:,} patients {'with' if self.multi_label else 'of class'} {row.rare}"
        if math.isnan(row.auc_all):
            return f"{patients} can show nothing"
        tested = "" if math.isnan(row.auc_test) else f", {self.test_part} to +- {row.auc_test:.2f}"
        return f"{patients} can show an AUC to +- {row.auc_all:.2f} over all folds{tested} (95 %, at AUC 0.85)"

    def warnings(self) -> tuple[str, ...]:
        """Warnings about classes with too few patients to judge a classifier, or to split."""
        few = sorted((row for row in self.rows if row.rare_patients < FEW), key=lambda row: row.rare_patients)
        consequences = {FEW: "too few to judge a classifier", len(PARTS): f"too few to be in {', '.join(PARTS)}"}
        warnings = []
        for limit, consequence in consequences.items():
            rows = ", ".join(f"{row.rare} ({row.rare_patients})" for row in few if row.rare_patients < limit)
            of = "with" if self.multi_label else "of class"
            warnings += [f"under {limit} patients {of} {rows}: {consequence}"] if rows else []
        return tuple(warnings)


def class_table(cohort: Cohort, split: SplitConfig | None = None) -> ClassTable:
    """Count the patients and cases of each class.

    Args:
        cohort: Labelled cases; its own split is used if it has one.
        split: Otherwise the share of the test patients.
    """
    split = split or SplitConfig()
    cohort = replace(cohort, cases=cohort.labelled)
    labels, many = labels_of(cohort.cases), cohort.multi_label
    present: np.ndarray = labels == 1 if many else labels[:, None] == np.arange(len(cohort.classes))
    patient = np.unique([case.patient_id for case in cohort.cases], return_inverse=True)[1].reshape(-1)
    parts = np.array([case.split or "" for case in cohort.cases])
    tests = parts == "test"
    test_share = 1 / split.folds if split.folds else split.test
    num_cases, num_patients = len(labels), int(patient.max()) + 1
    drawn = np.bincount(rarest(present) + 1, minlength=present.shape[1] + 1)[1:]  # [0]: cases without any label
    rows = []
    for k, (name, has) in enumerate(zip(cohort.classes, present.T, strict=True)):
        patients, without = _patients(patient, has), _patients(patient, ~has)
        is_common = many and without < patients
        rare = ~has if is_common else has
        rare_cases, rare_patients = int(rare.sum()), without if is_common else patients
        positive = present[:, 1] if not many and len(cohort.classes) == 2 else has  # two classes have one AUC
        in_all = _patients(patient, positive), _patients(patient, ~positive)
        in_test = [max(1, round(test_share * n)) if n else 0 for n in in_all]
        if tests.any():
            in_test = [_patients(patient, positive & tests), _patients(patient, ~positive & tests)]
        rows.append(
            ClassRow(
                name=name,
                cases=int(has.sum()),
                patients=patients,
                rare=f"no {name}" if is_common else name,
                rare_cases=rare_cases,
                rare_patients=rare_patients,
                share=min(rare_patients / num_patients, rare_cases / num_cases),
                val_patients=_val_patients(patient, rare, parts, split),
                auc_all=expected_auc_half_width(*in_all),
                auc_test=expected_auc_half_width(*in_test),
                drawn=int(drawn[k]) if many else None,
            )
        )
    part = f"one of {split.folds} folds" if split.folds else f"a test part of {percent(split.test)}"
    return ClassTable(
        rows=tuple(rows),
        num_cases=num_cases,
        num_patients=num_patients,
        multi_label=many,
        test_part="the table's test part" if tests.any() else part,
    )


def percent(share: float) -> str:
    """A share in per cent; below 10 % with one decimal."""
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.0995 else f"{share:.0%}".replace("%", " %")


def _patients(patient: Int[np.ndarray, " n"], has: Bool[np.ndarray, " n"]) -> int:
    """Number of different patients in some of the rows."""
    return len(np.unique(patient[has]))


def _val_patients(
    patient: Int[np.ndarray, " n"], rare: Bool[np.ndarray, " n"], parts: Shaped[np.ndarray, " n"], split: SplitConfig
) -> int:
    """Validation patients of a class: by the table's split, else a share of those that are not in the test part."""
    if (parts == "val").any():
        return _patients(patient, rare & (parts == "val"))
    left = _patients(patient, rare & (parts != "test")) * (1 - 1 / split.folds if split.folds else 1)
    return max(1, round(split.val * left)) if left else 0
