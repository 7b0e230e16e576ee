"""What a run keeps of its cases in ``run.json`` and ``splits.csv``, and what of it has changed since."""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.split_file import Splits, patient_key
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError
from hilum.settings.run import RunConfig
from hilum.settings.toml import to_dict

RUN_FORMAT = 1
_FIELDS = ("label", "soft label", "weight", "sample")
FIELDS = (*_FIELDS, "auxiliary targets")
"""What ``run.json`` keeps of each case; the last since there are such targets."""


_ANYTIME = re.compile(
    r"cohort\.table|store|store_gb|reading\.max_gb|card\..*|training\.(weights|workers|device|checkpointing|checkpoint_minutes)"
)
"""Settings that may change while a run goes on: places, statements, and what costs only time or memory."""


def text_digest(content: bytes) -> str:
    """The digest by which a model and ``run.json`` know a split."""
    return hashlib.sha256(content).hexdigest()[:16]


def is_complete(record: object) -> TypeGuard[dict[str, Any]]:
    """Whether the content of a ``run.json`` has all that is read of it."""
    if not (isinstance(record, dict) and isinstance(record.get("cases"), dict) and record["cases"]):
        return False
    has_fields = all(isinstance(case, dict) and set(_FIELDS) <= case.keys() for case in record["cases"].values())
    classes = record.get("classes")
    has_classes = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return has_fields and has_classes and all(isinstance(record.get(name), str) for name in ("key", "split"))


def changed_cases(now: dict[str, dict[str, Any]], then: dict[str, dict[str, Any]], names: Iterable[str]) -> list[str]:
    """What differs between records of cases in the fields of these names."""
    changes: list[str] = []
    for case_id in sorted(then.keys() | now.keys()):
        if case_id not in now or case_id not in then:
            changes.append(f"case {case_id!r} {'is new' if case_id in now else 'can no longer be used'}")
            continue
        before, after = then[case_id], now[case_id]  # older runs know of no auxiliary targets
        fields = [name for name in names if after[name] != before.get(name, after[name])]
        changes += [f"the {' and '.join(fields)} of case {case_id!r}"] if fields else []
    return changes


def settings_record(config: RunConfig) -> dict[str, Any]:
    """The settings on which the result of a run depends, by their full names, as JSON has them."""
    named: dict[str, Any] = {}
    sections: list[tuple[str, Any]] = [("", json.loads(json.dumps(to_dict(config))))]
    while sections:
        prefix, section = sections.pop()
        for name, value in section.items():
            if isinstance(value, dict):
                sections.append((f"{prefix}{name}.", value))
            elif not _ANYTIME.fullmatch(prefix + name):
                named[prefix + name] = value
    return named


def changed_settings(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """What differs between records of settings, as sentences; None: not given."""
    others = [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
    return [f"{name} must be {then.get(name)!r}, is {now.get(name)!r}" for name in others]


def first_of(changes: list[str]) -> str:
    """The first of some changes, and how many more there are."""
    return changes[0] + (f" and {len(changes) - 1} more" if len(changes) > 1 else "")


def case_records(prepared: PreparedCohort) -> dict[str, dict[str, Any]]:
    """Label, weight and sample of each case; the name of a sample depends on scan, recipe and code version."""
    return {
        case.case_id: {
            "label": list(case.present) or case.label,
            "soft label": case.soft_label,
            "weight": case.weight,
            "sample": file.stem,
            "auxiliary targets": [None if math.isnan(value) else value for value in case.auxiliary],
        }
        for case, file in zip(prepared.cases, prepared.samples, strict=True)
    }


def check_patients(folder: Path, splits: Splits, cohort: Cohort) -> None:
    """Check that cases share patients as they did when a run began; works under any key.

    Raises:
        CohortError: If they do not. The first case with another patient is named; under another key, which hashes all
            patients anew, the first case of a patient whose cases have changed.
    """
    now = {case.case_id: patient_key(case) for case in cohort.cases if case.case_id in splits.parts}
    before = {case_id: splits.patients.get(case_id, "") for case_id in now}
    changed = _by_patient(now) ^ _by_patient(before)
    if changed:
        of = f"of case {min(set().union(*changed))!r} or of a case that shares it"
        if any(patient and patient == before[case_id] for case_id, patient in now.items()):  # the same key
            of = f"of case {min(case_id for case_id in now if now[case_id] != before[case_id])!r}"
        msg = f"the patient {of} in {cohort.source} has changed since {folder} was begun"
        raise CohortError(msg, hint="train a new run")


def _by_patient(patients: dict[str, str]) -> set[frozenset[str]]:
    """The cases of each patient; cases without an id are left out."""
    cases: dict[str, set[str]] = {}
    for case_id, patient in patients.items():
        cases.setdefault(patient, set()).add(case_id)
    return {frozenset(some) for patient, some in cases.items() if patient}
