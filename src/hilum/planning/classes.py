"""Who has what: patients and cases of each class of a table, and what so many patients can show."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from hilum.cohorts.labels import labels_of
from hilum.cohorts.sampling import rarest
from hilum.cohorts.table import PARTS, Cohort
from hilum.measuring.intervals import expected_auc_half_width
from hilum.settings.run import SplitConfig

FEW = 20
"""Patients of a class under which a classifier cannot be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class, or one finding.

    Attributes:
        name: As the table has it.
        cases: Of this class, or with this finding.
        patients: With such a case.
        rare: What is to be learned from few: the class or the finding; "no X" of a finding X that most have.
        rare_cases: Of that.
        rare_patients: With such a case.
        share: The smaller of the shares of patients and of cases of that.
        val_patients: Of them in the validation part, on which calibration and threshold rest.
        auc_all: Half of the 95 % interval of an AUC of 0.85, of this class against the rest, over all patients.
        auc_test: The same in the test part.
        drawn: Of a finding the cases that sampling counts to it, for it is the rarest that they have; else None.
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
    """All classes, or findings, of a cohort.

    Attributes:
        rows: In the order of the model's outputs.
        num_cases: Of the cohort.
        num_patients: Of the cohort; one may have cases of several classes.
        multi_label: Whether the rows are findings that do not exclude one another.
        test_part: What tests, in words.
    """

    rows: tuple[ClassRow, ...]
    num_cases: int
    num_patients: int
    multi_label: bool
    test_part: str

    @property
    def is_binary(self) -> bool:
        """Whether there is one question, with two answers."""
        return len(self.rows) == 2 and not self.multi_label

    @property
    def has_thresholds(self) -> bool:
        """Whether it is decided at a threshold; of more than two classes the most probable one is."""
        return self.is_binary or self.multi_label

    @property
    def kind(self) -> str:
        """What a row is."""
        return "finding" if self.multi_label else "class"

    @property
    def plural(self) -> str:
        """What the rows are."""
        return "findings" if self.multi_label else "classes"

    @property
    def rarest(self) -> ClassRow:
        """The class, or finding, by which the loss is chosen; of two as rare the last, as positives are."""
        return min(reversed(self.rows), key=lambda row: (row.share, row.rare_patients))

    @property
    def ratio(self) -> float:
        """Patients of the commonest class to those of the rarest; infinite where a class has none."""
        patients = [row.patients for row in self.rows]
        return max(patients) / min(patients) if min(patients) else math.inf

    @property
    def share_of_rarest(self) -> str:
        """In words, by patients or by cases, whichever is the smaller share."""
        row = self.rarest
        by_cases = row.rare_cases / self.num_cases < row.rare_patients / self.num_patients
        count, of = (row.rare_cases, self.num_cases) if by_cases else (row.rare_patients, self.num_patients)
        return f"{row.rare} has {count:,} of {of:,} {'cases' if by_cases else 'patients'} ({percent(row.share)})"

    def sample_size(self) -> str:
        """What the number of patients of the rarest class can show at all."""
        row = min(reversed(self.rows), key=lambda one: one.rare_patients)
        who = f"{row.rare_patients:,} patients {'with' if self.multi_label else 'of class'} {row.rare}"
        if math.isnan(row.auc_all):
            return f"{who} can show nothing"
        tested = "" if math.isnan(row.auc_test) else f", {self.test_part} to +- {row.auc_test:.2f}"
        return f"{who} can show an AUC to +- {row.auc_all:.2f} over all folds{tested} (95 %, at AUC 0.85)"

    def warnings(self) -> tuple[str, ...]:
        """What so few patients of a class do not allow."""
        few = sorted((row for row in self.rows if row.rare_patients < FEW), key=lambda row: row.rare_patients)
        lost = [row for row in few if row.rare_patients < len(PARTS)]
        said = []
        if few:
            said.append(f"under {FEW} patients {self._listed(few)}: too few to judge a classifier")
        if lost:
            said.append(f"under {len(PARTS)} patients {self._listed(lost)}: too few to be in {', '.join(PARTS)}")
        return tuple(said)

    def _listed(self, rows: Iterable[ClassRow]) -> str:
        each = ", ".join(f"{row.rare} ({row.rare_patients})" for row in rows)
        return f"{'with' if self.multi_label else 'of class'} {each}"


def class_table(cohort: Cohort, split: SplitConfig | None = None) -> ClassTable:
    """Count patients and cases of each class.

    Args:
        cohort: Labelled cases; its own split says who tests, where it has one.
        split: Otherwise, the share of the patients that test.
    """
    split = split or SplitConfig()
    labels, many = labels_of(cohort.cases), cohort.multi_label
    present: np.ndarray = labels == 1 if many else labels[:, None] == np.arange(len(cohort.classes))
    patient = np.unique([case.patient_id for case in cohort.cases], return_inverse=True)[1].reshape(-1)
    parts = np.array([case.split or "" for case in cohort.cases])
    tests = parts == "test"
    test_share = 1 / split.folds if split.folds else split.test
    num_cases, num_patients = len(labels), int(patient.max()) + 1
    drawn = np.bincount(rarest(present) + 1, minlength=present.shape[1] + 1)[1:]  # without those that have none
    rows = []
    for k, (name, has) in enumerate(zip(cohort.classes, present.T, strict=True)):
        patients, without = _count(patient, has), _count(patient, ~has)
        flipped = many and without < patients
        rare = ~has if flipped else has
        rare_cases, rare_patients = int(rare.sum()), min(patients, without) if many else patients
        asked = has if many or len(cohort.classes) > 2 else present[:, 1]  # of two classes there is one AUC
        in_all = _count(patient, asked), _count(patient, ~asked)
        in_test = [max(1, round(test_share * n)) if n else 0 for n in in_all]
        if tests.any():
            in_test = [_count(patient, asked & tests), _count(patient, ~asked & tests)]
        rows.append(
            ClassRow(
                name=name,
                cases=int(has.sum()),
                patients=patients,
                rare=f"no {name}" if flipped else name,
                rare_cases=rare_cases,
                rare_patients=rare_patients,
                share=min(rare_patients / num_patients, rare_cases / num_cases),
                val_patients=_validating(patient, rare, parts, split),
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
    """A share in words; under 10 % with one digit behind the point."""
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.0995 else f"{share:.0%}".replace("%", " %")


def _count(patient: Int[np.ndarray, " n"], has: Bool[np.ndarray, " n"]) -> int:
    """Different patients in some of the rows."""
    return len(np.unique(patient[has]))


def _validating(
    patient: Int[np.ndarray, " n"], rare: Bool[np.ndarray, " n"], parts: Shaped[np.ndarray, " n"], split: SplitConfig
) -> int:
    """Patients of a class that validate: as the table says, else their share of those that do not test."""
    if (parts == "val").any():
        return _count(patient, rare & (parts == "val"))
    left = _count(patient, rare & (parts != "test")) * (1 - 1 / split.folds if split.folds else 1)
    return max(1, round(split.val * left)) if left else 0
