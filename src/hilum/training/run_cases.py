"""What a run knows of its cases: which trained its model, and whether a table has them as when the run began."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from hilum.cohorts.links import KnownCases
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.signature_file import read_signatures, signatures_of, write_signatures
from hilum.cohorts.split_file import SPLITS_FORMAT, Splits, TrainedOn, extended_splits, read_splits, splits_text
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import ModelCard, read_card
from hilum.errors import CheckpointError, CohortError, ConfigError
from hilum.files import write_whole
from hilum.reading.identity import key_fingerprint
from hilum.settings.run import RunConfig
from hilum.training.environment import differences
from hilum.training.run_folder import Run
from hilum.training.run_record import (
    FIELDS,
    RUN_FORMAT,
    case_records,
    changed_cases,
    changed_settings,
    check_patients,
    first_of,
    is_complete,
    settings_record,
    text_digest,
)

_log = logging.getLogger("hilum")


def splits_of(run: Run, cohort: Cohort) -> Splits:
    """Read the split of the run, and check that its table still has the same patients and parts.

    Validation cases that were drawn from rows marked train count as unchanged.

    Raises:
        CohortError: If the file is missing, the table has none of its cases, or cases have another patient or part.
    """
    splits = read_splits(run.splits_file, named_by_path=cohort.named_by_path)
    check_patients(run.folder, splits, cohort)
    has_val = any(case.split == "val" for case in cohort.cases)  # else val was drawn from rows marked train
    for case in cohort.cases:
        part = splits.parts.get(case.case_id, case.split)
        if case.split and case.split != part and (has_val or (case.split, part) != ("train", "val")):
            msg = f"the split of case {case.case_id!r} in {cohort.source} has changed since {run.folder} was begun"
            raise CohortError(msg, hint="train a new run")
    if cohort.named_by_path and not splits.parts.keys() & {case.case_id for case in cohort.cases}:
        msg = (
            f"{run.folder} was made with another key for hashing, or for another table: no case id of it is one "
            "of the table's"
        )
        raise CohortError(msg, hint="set HILUM_KEY, or the key file of the site, to the key of the run")
    return splits


def labels_at_begin(run: Run) -> dict[str, Any] | None:
    """The labels of its cases when it began; None in runs of older versions.

    Raises:
        CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
    """
    record = _required_record(run)
    return None if record is None else {case_id: one["label"] for case_id, one in record["cases"].items()}


def check_unchanged(run: Run, cohort: Cohort, prepared: PreparedCohort, *, to: str = "be resumed") -> None:
    """Check that a run has the same settings and the same cohort as when it began.

    Args:
        run: The run.
        cohort: Its table as it is now.
        prepared: Its cases as they are now.
        to: What it could not do otherwise, for the error; only a run that is resumed needs the same versions.

    Raises:
        ConfigError: If a setting on which the result depends has changed.
        CohortError: If classes, the order of the cases, or labels, weights or samples of cases have changed; the text
            names the first case.
        CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
    """
    record = _required_record(run)
    if record is None:
        return
    _check_settings(run, run.settings, record)
    if record["classes"] != list(cohort.classes):
        then_and_now = f"{', '.join(record['classes'])}, are {', '.join(cohort.classes)}"
        msg = f"{run.folder} cannot {to}: its classes must be {then_and_now}"
        raise CohortError(msg)
    began = record.get("environment")  # absent in runs of older versions
    others = differences(began, run.settings.training.device) if began and to == "be resumed" else []
    if others:
        _log.warning("warning: the run may differ from an unbroken one in the last digits: %s", "; ".join(others))
    now = case_records(prepared)
    changes = changed_cases(now, record["cases"], FIELDS)
    if not changes and list(now) != list(record["cases"]):
        changes = ["the order of the cases, by which batches are drawn"]
    if changes:
        msg = f"{run.folder} cannot {to}, the cohort has changed since it was begun: {first_of(changes)}"
        raise CohortError(msg, hint="train a new run")


def check_settings_kept(run: Run, config: RunConfig) -> None:
    """Check that these are the settings with which a run began, but for places and what only costs time.

    Raises:
        ConfigError: If one has changed.
        CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
    """
    _check_settings(run, config, _required_record(run) or {})


def _check_settings(run: Run, config: RunConfig, record: dict[str, Any]) -> None:
    began = record.get("settings")  # older runs keep none
    changes = changed_settings(settings_record(config), began) if began else []
    if changes:
        msg = f"{run.folder} was begun with other settings: {first_of(changes)}"
        raise ConfigError(msg, hint="give them back, or train a new run")


def check_tested(run: Run, prepared: PreparedCohort, splits: Splits) -> None:
    """Check that the test part has the cases, labels and scans with which the run began.

    Raises:
        CohortError: If it has not; the text names the first case.
        CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
    """
    record = _required_record(run)
    if record is None:
        return
    tested = {
        case_id: one
        for case_id, one in record["cases"].items()
        if splits.parts.get(case_id) == "test" and one["label"] is not None  # others have soft labels alone
    }
    now = {case_id: one for case_id, one in case_records(prepared).items() if one["label"] is not None}
    changes = changed_cases(now, tested, ["label"])
    changes += [
        f"the scan of case {case_id!r}"
        for case_id, digest in prepared.scans.items()
        if case_id in tested and splits.format == SPLITS_FORMAT and digest != splits.scans.get(case_id)
    ]
    if changes:
        msg = f"the test part of {run.folder} has changed since the run was begun: {first_of(changes)}"
        raise CohortError(msg, hint="judge the model on the table instead: hilum evaluate RUN COHORT --out FOLDER")


def has_split(run: Run, cohort: Cohort, parts: Mapping[str, str], scans: Mapping[str, str]) -> bool:
    """Whether ``splits.csv`` is that of these cases and parts, and the run's model, if any, was trained by it."""
    is_own = run.state != "whole" or read_card(run.model).training.get("split") == run.split_digest
    return is_own and run.split_digest == text_digest(splits_text(cohort, parts, scans).encode())


def has_trained(run: Run, card: ModelCard | None) -> bool:
    """Whether the split in the folder trained a model; without a card, whether there is a split.

    Models of older versions do not say which split trained them.
    """
    wanted = None if card is None else card.training.get("split")
    return run.splits_file.exists() and wanted in (None, run.split_digest)


def why_unchecked(run: Run, card: ModelCard | None) -> str:
    """Reason why cases of a table cannot be compared with a model's training cases; empty if they can.

    Args:
        run: The run.
        card: Card of the model; None for a run that has none yet.

    Raises:
        CheckpointError: If ``run.json`` is damaged, or of a newer version.
    """
    if not has_trained(run, card):
        return "the model's run, whose splits.csv tells which cases trained it, is not the folder around it"
    record = _record(run)
    if record is None:
        return "the run has no fingerprint of its key: it is of an older Hilum, or its run.json is lost"
    if record["key"] != key_fingerprint():
        return "the run was made with another key, so that its patients cannot be recognised"
    return ""


def known_cases(run: Run, card: ModelCard | None = None) -> KnownCases:
    """What an audit needs to know of the training and validation cases; notes say what cannot be compared and why.

    Under another key patients and studies cannot be recognised; scans are compared all the same.

    Args:
        run: The run.
        card: Card of the model whose cases they are; None: that of the run's own model, if it has one.

    Raises:
        CohortError: If ``splits.csv`` cannot be read.
        CheckpointError: If the signatures, ``run.json`` or the card are damaged.
    """
    if card is None and run.state == "whole":
        card = read_card(run.model)
    why = why_unchecked(run, card)
    if not has_trained(run, card):
        note = f"nothing was compared with the cases that trained the model: {why}"
        return KnownCases(trained_on=TrainedOn(), sources={}, unchecked=why, notes=(note,))
    splits = read_splits(run.splits_file)
    notes = []
    if why:
        what = "patients and studies" if splits.format == SPLITS_FORMAT else "patients, studies and exact scans"
        notes.append(f"{what} were not compared with those that trained the model: {why}")
    signatures = {}
    if run.signatures_file.exists():
        signatures = read_signatures(run.signatures_file)
    else:
        notes.append(
            "the run holds no signatures of its scans (it is of an older Hilum): altered copies of them, and their "
            "studies, are not looked for"
        )
    used = {case_id: one for case_id, one in signatures.items() if splits.parts.get(case_id, "test") != "test"}
    return KnownCases(
        trained_on=splits.trained_on,
        sources={case_id: replace(one.source, digest=splits.scans.get(case_id, "")) for case_id, one in used.items()},
        studies=frozenset(one.study for one in used.values()),
        unchecked=why,
        notes=tuple(notes),
    )


def extend_run(run: Run, origin: Run, card: ModelCard, added: PreparedCohort) -> None:
    """Write the split of another run with further validation cases, and its record, around a model made from its.

    So the cases of both are recognised as seen. A record is written only if the other run has one; it holds the
    current key only if that is the other run's, since the patients of either could not be recognised otherwise.

    Args:
        run: The folder that gets them.
        origin: The run of the first model.
        card: Card of the first model.
        added: The further cases.

    Raises:
        CheckpointError: If the other run's ``run.json`` is damaged, or of a newer version.
    """
    is_known = has_trained(origin, card)
    before = read_splits(origin.splits_file, named_by_path=True) if is_known else Splits(parts={})
    record = _record(origin) if is_known else None
    splits = extended_splits(before, added.cases, added.scans)
    names = [name for name in splits.parts if name not in before.parts]
    if is_known and origin.signatures_file.exists():  # else altered copies of the first cases would be missed
        own = signatures_of(added)
        pairs = zip(names, (case.case_id for case in added.cases), strict=True)
        both = read_signatures(origin.signatures_file) | {name: own[one] for name, one in pairs if one in own}
        write_signatures(run.signatures_file, both)
    text = splits.text
    if record is not None:
        key, current = record["key"], key_fingerprint()
        records = case_records(added)
        cases = {name: records[case.case_id] for name, case in zip(names, added.cases, strict=True)}
        record |= {
            "version": version("hilum"),
            "key": key if key == current else f"{key} and {current}",
            "split": text_digest(text.encode()),
            "cases": record["cases"] | cases,
        }
        write_whole(run.folder / "run.json", json.dumps(record, indent=1) + "\n")
    write_whole(run.splits_file, text)


def _record(run: Run) -> dict[str, Any] | None:
    """Content of ``run.json``; None if it is not there.

    Raises:
        CheckpointError: If it cannot be read, is damaged, of a newer version, or belongs to another split.
    """
    file = run.folder / "run.json"
    if not file.exists():
        return None
    record, cause = None, None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        msg = f"cannot be read: {exc.strerror or exc}"
        raise CheckpointError(msg, path=file) from exc
    except (ValueError, RecursionError) as exc:
        cause = exc
    number = record.get("format") if isinstance(record, dict) else None
    if number is not None and (type(number) is not int or number != RUN_FORMAT):
        msg = f"the format must be {RUN_FORMAT}, is {number!r}: use the Hilum that wrote it"
        raise CheckpointError(msg, path=file)
    if number is None or not is_complete(record):
        msg = "is damaged: it must hold format, key, split, classes, and the fields of each case"
        raise CheckpointError(msg, path=file) from cause
    if record["split"] != run.split_digest:
        msg = f"is not the record of {run.splits_file}: one of them comes from another run, or was changed"
        raise CheckpointError(msg, path=file)
    return record


def _required_record(run: Run) -> dict[str, Any] | None:
    """Content of ``run.json``; None for a run of an older version.

    Raises:
        CheckpointError: If it is damaged, of a newer version, or lost.
    """
    record = _record(run)
    if record is None and read_splits(run.splits_file).format == SPLITS_FORMAT:
        msg = "is missing, without which nothing can be compared with what the run began with"
        raise CheckpointError(msg, path=run.folder / "run.json")
    return record
