"""Splits cases into training, validation and test parts: by patient, stratified by label, from a seed."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from hilum.cohorts.table import PARTS, Case, Cohort, Side
from hilum.errors import CohortError
from hilum.randomness import generator
from hilum.settings.run import SplitConfig

_ATTEMPTS = 50
"""Random splits that are tried: one may leave a part without a class, where patients have cases of several."""

Patients = dict[str, list[Case]]


def split(cohort: Cohort, config: SplitConfig) -> dict[str, str]:
    """The part of each case: ``{case_id: "train" | "val" | "test"}``.

    All cases of a patient are in one part. Every class is in every part. The result depends on the cases, the
    settings and the seed, not on the order of the table. A patient's stratum is the highest label of its cases, or for
    several labels the rarest label of its cases.

    - With ``split`` values in the table, these are used; rows without one take their patient's, or train. If there is
      no val, it is taken out of train.
    - With ``config.folds``, fold ``config.fold`` of a stratified, grouped k-fold is the test part.
    - Otherwise, ``config.val`` and ``config.test`` are shares of the patients, rounded to whole patients.
    - Cases with a soft label alone change nothing of this: they follow their patient's other cases. Patients who have
      none train, but with folds are dealt to them, so that each is tested out of fold in the same way.

    Raises:
        CohortError: If there are too few patients of a class, or the table's own split lacks one.
    """
    check_classes(cohort)
    whole, cohort = cohort, replace(cohort, cases=cohort.labelled)
    patients = _by_patient(cohort)
    return _with_soft(whole, _labelled_parts(cohort, patients, config), config)


def _labelled_parts(cohort: Cohort, patients: Patients, config: SplitConfig) -> dict[str, str]:
    """The parts of cases with labels."""
    if any(case.split for case in cohort.cases):
        return _from_table(cohort, patients, config)
    needed = max(config.folds, len(PARTS))
    _check_counts(cohort, patients, needed, "folds" if config.folds > len(PARTS) else "parts (train, val, test)")
    if not config.folds:
        shares = {"test": config.test, "val": config.val}
        return _random_parts(cohort, patients, shares, config.seed)
    tested = _fold(cohort, patients, config)
    rest = {patient: cases for patient, cases in patients.items() if patient not in tested}
    parts = _random_parts(cohort, rest, {"val": config.val}, config.seed)
    return dict(sorted((parts | {case.case_id: "test" for patient in tested for case in patients[patient]}).items()))


def _with_soft(cohort: Cohort, parts: dict[str, str], config: SplitConfig) -> dict[str, str]:
    """The parts with the cases that have a soft label alone."""
    if len(parts) == len(cohort.cases):
        return parts
    patients = _by_patient(cohort)
    of_patient = {p: parts[case.case_id] for p, cases in patients.items() for case in cases if case.case_id in parts}
    alone = [p for p in patients if p not in of_patient]
    order = generator(config.seed, "split", "soft labels alone").permutation(len(alone))
    for place, number in enumerate(order):
        is_tested = config.folds and place % config.folds == config.fold
        own = next((case.split for case in patients[alone[number]] if case.split), "test" if is_tested else "train")
        of_patient[alone[number]] = own
    return dict(sorted((case.case_id, of_patient[p]) for p, cases in patients.items() for case in cases))


def check_classes(cohort: Cohort) -> None:
    """Raise a CohortError unless there are labelled cases of at least two classes, or with and without each label."""
    for case in cohort.cases:
        if not case.is_labelled and case.soft_label is None:
            msg = f"{cohort.source}: every case must have a label to be split, got none for {case.case_id!r}"
            raise CohortError(msg)
    found = {side for case in cohort.cases for side in case.sides}
    if cohort.multi_label:
        missing = "; ".join(cohort.name_of(side) for side in cohort.sides if side not in found)
        if missing:
            msg = f"{cohort.source}: there must be cases with and without each label, got none of {missing}"
            raise CohortError(msg)
    elif len(found) < 2:
        names = ", ".join(cohort.classes[k] for k, _ in found) or "none"
        msg = f"{cohort.source}: the labels must be of at least two classes, got only {names}"
        raise CohortError(msg)


def check_parts(cases: Iterable[Case], parts: Mapping[str, str], cohort: Cohort) -> None:
    """Check that every class is still in every part after unusable cases were left out.

    Raises:
        CohortError: If not; the text names the class and the part.
    """
    found = {(parts[case.case_id], side) for case in cases for side in case.sides}
    for part in PARTS:
        for side in cohort.sides:
            if (part, side) not in found:
                msg = (
                    f"every class must be in every part once unusable cases are left out; no case of class "
                    f"{cohort.name_of(side)} is left in {part}. Fix or remove the refused cases, or change split.seed"
                )
                raise CohortError(msg)


def _by_patient(cohort: Cohort) -> Patients:
    """Cases by patient, in the order of the cases' names, so that rows, patient ids and keys do not matter."""
    patients: Patients = {}
    for case in sorted(cohort.cases, key=lambda case: case.name):
        patients.setdefault(case.patient_id, []).append(case)
    return patients


def _num_patients(patients: Patients, side: Side) -> int:
    return sum(any(side in case.sides for case in cases) for cases in patients.values())


def _stratum(cohort: Cohort) -> Callable[[Iterable[Case]], int]:
    """A function from a patient's cases to their stratum: highest class, or rank of their rarest label (0: none)."""
    if not cohort.multi_label:
        return lambda cases: max(case.label or 0 for case in cases)
    often = [sum((k, True) in case.sides for case in cohort.cases) for k in range(len(cohort.classes))]
    rank = {k: len(often) - place for place, k in enumerate(sorted(range(len(often)), key=lambda k: (often[k], k)))}
    return lambda cases: max((rank[k] for case in cases for k, is_there in case.sides if is_there), default=0)


def _check_counts(cohort: Cohort, patients: Patients, needed: int, what: str) -> None:
    side = min(cohort.sides, key=lambda side: _num_patients(patients, side))
    found = _num_patients(patients, side)
    if found < needed:
        advice = f"take at most {found} folds" if found >= len(PARTS) else "leave the class out"
        msg = (
            f"{cohort.source}: every class must have at least {needed} patients to be in all {needed} {what}, "
            f"got {found} of class {cohort.name_of(side)}; add patients of this class, or {advice}"
        )
        raise CohortError(msg)


def _missing(cohort: Cohort, parts: Mapping[str, str], wanted: tuple[str, ...]) -> tuple[str, Side] | None:
    """The first part without a class, and the class; None if every part has all."""
    seen = {(parts[case.case_id], side) for case in cohort.cases if case.case_id in parts for side in case.sides}
    for part in wanted:
        for side in cohort.sides:
            if (part, side) not in seen:
                return part, side
    return None


def _random_parts(cohort: Cohort, patients: Patients, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Divide patients at random into parts of these shares; the rest is the training part."""
    strata: dict[int, list[str]] = {}
    stratum = _stratum(cohort)
    for patient, cases in patients.items():
        strata.setdefault(stratum(cases), []).append(patient)
    labels = sorted(strata)
    wanted = ("train", *shares)
    missing: tuple[str, Side] | None = None
    for attempt in range(_ATTEMPTS):
        rng = generator(seed, "split", attempt)
        queues = {label: [strata[label][i] for i in rng.permutation(len(strata[label]))] for label in labels}
        chosen: dict[str, str] = {}
        for later, (part, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
            sizes = [share * len(strata[label]) for label in labels]
            counts = _round(sizes, [len(queues[label]) - later for label in labels])
            for label, count in zip(labels, counts, strict=True):
                chosen |= dict.fromkeys(queues[label][:count], part)
                queues[label] = queues[label][count:]
        parts = {case.case_id: chosen.get(p, "train") for p, cases in patients.items() for case in cases}
        missing = _missing(cohort, parts, wanted)
        if missing is None:
            return dict(sorted(parts.items()))
    assert missing is not None  # there was an attempt  # noqa: S101
    part, side = missing
    msg = (
        f"{cohort.source}: no split by patient has every class in {', '.join(wanted)}: class {cohort.name_of(side)} "
        f"({_num_patients(patients, side)} patients here) is missing from {part}; add patients of this class, or "
        "change the shares or the seed"
    )
    raise CohortError(msg)


def _round(sizes: list[float], most: list[int]) -> list[int]:
    """Whole numbers near the sizes, at least 1 and at most ``most`` each, whose sum is the rounded sum."""
    lowest = [min(1, max(m, 0)) for m in most]
    counts = [min(max(int(size), low), max(m, low)) for size, low, m in zip(sizes, lowest, most, strict=True)]
    total = round(sum(sizes))
    while sum(counts) < total:
        free = [k for k in range(len(counts)) if counts[k] < most[k]]
        if not free:
            break
        counts[max(free, key=lambda k: sizes[k] - counts[k])] += 1
    while sum(counts) > total:
        free = [k for k in range(len(counts)) if counts[k] > lowest[k]]
        if not free:
            break
        counts[max(free, key=lambda k: counts[k] - sizes[k])] -= 1
    return counts


def _fold(cohort: Cohort, patients: Patients, config: SplitConfig) -> set[str]:
    """Patients of the test fold; the folds do not depend on ``config.fold``."""
    names = list(patients)
    cases = [(number, case) for number, name in enumerate(names) for case in patients[name]]
    stratum = _stratum(cohort)
    labels = np.array([stratum([case]) for _, case in cases])
    groups = np.array([number for number, _ in cases])
    for attempt in range(_ATTEMPTS):
        state = (config.seed + attempt * 7919) % 2**32
        with warnings.catch_warnings():  # about strata with few cases; the folds are checked below
            warnings.simplefilter("ignore", UserWarning)
            folds = list(
                StratifiedGroupKFold(config.folds, shuffle=True, random_state=state).split(labels, labels, groups)
            )
        tests = [test for _, test in folds]
        if all({side for row in test for side in cases[row][1].sides} == set(cohort.sides) for test in tests):
            return {names[number] for number in groups[tests[config.fold]]}
    counts = ", ".join(f"{_num_patients(patients, side)} of {cohort.name_of(side)}" for side in cohort.sides)
    msg = f"{cohort.source}: no {config.folds} folds by patient have every class ({counts} patients); take fewer folds"
    raise CohortError(msg)


def _from_table(cohort: Cohort, patients: Patients, config: SplitConfig) -> dict[str, str]:
    if config.folds:
        msg = f"{cohort.source}: the table has a split column and split.folds = {config.folds} is set; remove one"
        raise CohortError(msg)
    chosen = {p: next((case.split for case in cases if case.split), "train") for p, cases in patients.items()}
    parts = {case.case_id: chosen[p] for p, cases in patients.items() for case in cases}
    if "val" not in chosen.values():
        rest = {p: cases for p, cases in patients.items() if chosen[p] == "train"}
        parts |= _random_parts(cohort, rest, {"val": config.val}, config.seed)
    missing = _missing(cohort, parts, PARTS)
    if missing is not None:
        part, side = missing
        msg = (
            f"{cohort.source}: every class must be in every part, but the table's split puts none of the "
            f"{_num_patients(patients, side)} patients of class {cohort.name_of(side)} into {part}; move some, or "
            "leave the split column empty"
        )
        raise CohortError(msg)
    return dict(sorted(parts.items()))
