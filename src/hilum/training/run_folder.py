"""The run folder: its paths, its state, its lock, and a record of the cohort with which the run began."""

import contextlib
import csv
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hilum.cohorts.audit import AUDIT_MARK, Audit
from hilum.cohorts.links import KnownCases
from hilum.cohorts.prepared import REFUSALS_MARK, PreparedCohort, write_refusals
from hilum.cohorts.signature_file import SIGNATURES_MARK, read_signatures, signatures_of, write_signatures
from hilum.cohorts.split_file import (
    SPLITS_FORMAT,
    Splits,
    TrainedOn,
    extended_splits,
    read_splits,
    splits_text,
)
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import ModelCard, read_card
from hilum.errors import CheckpointError, CohortError, ConfigError, TrainingError, require
from hilum.files import PNG_MARK, check_output, check_place, holds, user_path, write_whole
from hilum.reading.identity import key_fingerprint
from hilum.settings.run import RunConfig
from hilum.settings.toml import from_dict, load, save, to_dict
from hilum.training.environment import differences, environment_of
from hilum.training.folds_plan import FoldsPlan
from hilum.training.run_record import FIELDS, case_records, changed_cases, check_patients, first_of, is_complete

try:
    import fcntl
except ImportError:  # Windows has no lock against a second process
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("hilum")

RUN_FORMAT = 1
STATE = "state.safetensors"
_COMMENT = "The settings of this run, as hilum train wrote them."
_OWN_FILES = {
    "config.toml": rf"^# {re.escape(_COMMENT)}",
    "run.json": r'^\{\s*"format": \d+,\s*"version"',
    "splits.csv": r"^case_id,split,patient,scan",
    "refused.csv": REFUSALS_MARK,
    "metrics.csv": r"^epoch,lr,train_loss",
    "signatures.safetensors": SIGNATURES_MARK,
    "audit.json": AUDIT_MARK,
    "cases.csv": "^case_id,fold,label",
    "folds.json": r'^\{"format": \d+, "folds"',
    "history.png": PNG_MARK,
    "events.out.tfevents.*": "brain.Event:",
}
"""Files of a run that was stopped before its first checkpoint, and patterns of their content."""
_TEMPORARY = re.compile(
    r".*/\.(config\.toml|\w+\.csv|run\.json|audit\.json|folds\.json|model\.json|history\.png|\w+\.safetensors)\.\d+\.[0-9a-f]{8}(\.png)?"
    r"|.*/(last|model|members/[^/]+)/\.tmp[0-9A-Za-z]{6}"
)
"""Temporary paths of ``files.new_file`` for the files of a run, and those of safetensors."""


class Run:
    """A run folder; all other code gets the paths in it from here.

    Args:
        folder: New or existing; nothing is read or created yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder)

    @property
    def settings_file(self) -> Path:
        """``config.toml``, with paths relative to the folder."""
        return self.folder / "config.toml"

    @property
    def splits_file(self) -> Path:
        """``splits.csv``: part, hashed patient and scan of each case."""
        return self.folder / "splits.csv"

    @property
    def signatures_file(self) -> Path:
        """``signatures.safetensors``: the signature of each case's whole scan; absent in runs of older versions."""
        return self.folder / "signatures.safetensors"

    @property
    def audit_file(self) -> Path:
        """``audit.json``: what the audit before training found; absent in runs of older versions."""
        return self.folder / "audit.json"

    @property
    def refused_file(self) -> Path:
        """``refused.csv``: the refused cases; absent if there are none."""
        return self.folder / "refused.csv"

    @property
    def refused_ids(self) -> frozenset[str]:
        """Ids of the cases that were refused when the run began."""
        if not self.refused_file.is_file():
            return frozenset()
        with self.refused_file.open(encoding="utf-8", newline="") as file:
            return frozenset(row["case_id"] for row in csv.DictReader(file))

    @property
    def plan_file(self) -> Path:
        """``folds.json``: number of folds and seeds; only in a run of folds."""
        return self.folder / "folds.json"

    @property
    def cases_file(self) -> Path:
        """``cases.csv``: predictions out of fold; only in a run of folds."""
        return self.folder / "cases.csv"

    @property
    def is_of_folds(self) -> bool:
        """Whether it is a run of folds, with a member for each fold and seed, even if its plan is lost."""
        return self.plan_file.is_file() or (self.settings_file.is_file() and bool(self.members))

    @property
    def plan(self) -> FoldsPlan:
        """The members of a run of folds.

        Raises:
            CheckpointError: If it is none, or the file is damaged.
        """
        try:
            about = json.loads(self.plan_file.read_text(encoding="utf-8"))
            number = about.pop("format")
            require(number == FoldsPlan.FORMAT, "the format", str(FoldsPlan.FORMAT), number)
            plan = from_dict(FoldsPlan, about)
            require(plan.folds == self.settings.split.folds, "folds", "as in config.toml", plan.folds)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            msg = f"the plan of the folds cannot be read: {getattr(exc, 'strerror', None) or exc}"
            raise CheckpointError(msg, path=self.plan_file) from exc
        return plan

    @property
    def checkpoint(self) -> Path:
        """``last/``: the checkpoint after the last complete epoch."""
        return self.folder / "last"

    @property
    def model(self) -> Path:
        """``model/``: the model folder."""
        return self.folder / "model"

    @property
    def evaluation(self) -> Path:
        """``evaluation/``: figures, pictures and cases of the test part."""
        return self.folder / "evaluation"

    @property
    def members(self) -> "tuple[Run, ...]":
        """The members of a run of folds that have begun."""
        return tuple(Run(file.parent) for file in sorted(self.folder.glob("fold-*-seed-*/config.toml")))

    @classmethod
    def of(cls, folder: str | Path) -> "Run":
        """The run of a run folder or of a model folder, for which the parent folder need not exist as one."""
        path = user_path(folder)
        is_run = any((path / name).exists() for name in ("config.toml", "run.json", "splits.csv", "model"))
        return cls(path) if is_run else cls(path.resolve().parent)

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a run's record or split, in whatever state it is."""
        return (self.folder / "run.json").exists() or self.splits_file.exists()

    @property
    def split_digest(self) -> str:
        """Digest of ``splits.csv``, by which a model and ``run.json`` know the split.

        Raises:
            CohortError: If the file cannot be read.
        """
        try:
            return _digest(self.splits_file.read_bytes())
        except OSError as exc:
            msg = f"the splits cannot be read: {exc.strerror or exc}"
            raise CohortError(msg, path=self.splits_file) from exc

    @property
    def state(self) -> Literal["new", "begun", "whole"]:
        """new: no checkpoint. begun: can be resumed. whole: has a model."""
        if (self.model / "model.json").is_file():
            return "whole"
        return "begun" if (self.checkpoint / STATE).is_file() or self.is_of_folds else "new"

    @cached_property
    def settings(self) -> RunConfig:
        """The settings of the run, with absolute paths."""
        return load(self.settings_file)

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"hilum train {self.settings_file} --out {self.folder} --resume"

    @property
    def table(self) -> Path:
        """The table of cases."""
        return Path(self.settings.cohort.table)

    @property
    def store(self) -> Path:
        """The folder of the prepared samples."""
        return Path(self.settings.store)

    def splits(self, cohort: Cohort) -> Splits:
        """Read the split of the run, and check that its table still has the same patients and parts.

        Validation cases that were drawn from rows marked train count as unchanged.

        Raises:
            CohortError: If the file is missing, the table has none of its cases, or cases have another patient or part.
        """
        splits = read_splits(self.splits_file, named_by_path=cohort.named_by_path)
        check_patients(self.folder, splits, cohort)
        has_val = any(case.split == "val" for case in cohort.cases)  # else val was drawn from rows marked train
        for case in cohort.cases:
            part = splits.parts.get(case.case_id, case.split)
            if case.split and case.split != part and (has_val or (case.split, part) != ("train", "val")):
                msg = f"the split of case {case.case_id!r} in {cohort.source} has changed since {self.folder} was begun"
                raise CohortError(msg, hint="train a new run")
        if cohort.named_by_path and not splits.parts.keys() & {case.case_id for case in cohort.cases}:
            msg = (
                f"{self.folder} was made with another key for hashing, or for another table: no case id of it is one "
                "of the table's"
            )
            raise CohortError(msg, hint="set HILUM_KEY, or the key file of the site, to the key of the run")
        return splits

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it against other processes; the lock ends with this process at the latest.

        Raises:
            TrainingError: If another process has locked it.
        """
        made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ".lock"
        with path.open("a") as file:
            is_mine = True
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_mine = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except (BlockingIOError, FileNotFoundError):
                is_mine = False
            except OSError as exc:  # a file system without locks
                _log.warning("warning: %s cannot be locked against a second process: %s", self.folder, exc.strerror)
            if not is_mine:
                msg = f"another process is training in {self.folder}; wait until it ends, or name another --out"
                raise TrainingError(msg)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                if made:
                    with contextlib.suppress(OSError):  # not empty: it holds a run
                        self.folder.rmdir()

    def check_new(self, inputs: Iterable[str | Path] = ()) -> None:
        """Check that a run can begin in the folder.

        Args:
            inputs: Files that the run reads, none of which may lie in the folder.

        Raises:
            ConfigError: If the folder cannot be made, or holds a run, an input, or files that no stopped run left
                behind.
        """
        check_place(self.folder, "a run folder")
        must = f"the run folder {self.folder} must be new or empty"
        if self.state != "new":
            msg = f"{must} (or resume the run in it), it holds a {self.state} run"
            raise ConfigError(msg)
        for one in inputs:
            if Path(one).resolve().parent == self.folder.resolve():
                msg = f"{must}, it holds {Path(one).name}, an input of the run"
                raise ConfigError(msg, hint="move it, or name another --out")
        is_taken = self.folder.exists() or self.folder.is_symlink()
        strangers = self._strangers() if self.folder.is_dir() else [self.folder] if is_taken else []
        if strangers:
            msg = f"{must}, it holds {strangers[0].name}, which no run wrote"
            raise ConfigError(msg, hint="move it, or name another --out")

    def begin(
        self,
        config: RunConfig,
        cohort: Cohort,
        prepared: PreparedCohort,
        parts: dict[str, str],
        found: Audit | None,
        *,
        plan: FoldsPlan | None = None,
    ) -> None:
        """Write settings, split, refusals, audit and a record of the cohort, with which a resume is compared.

        Args:
            config: All settings, fully resolved.
            cohort: The table as it was read.
            prepared: Its usable cases.
            parts: Part of each case of the table.
            found: The audit of the cohort; None: it stands in the run around this one.
            plan: The members of a run of folds; None: a single run.
        """
        self.clear()
        splits = splits_text(cohort, parts, prepared.scans)
        record = {
            "format": RUN_FORMAT,
            "version": version("hilum"),
            "key": key_fingerprint(),
            "split": _digest(splits.encode()),
            "classes": cohort.classes,
            "environment": environment_of(config.training.device, cohort.source, prepared.samples),
            "cases": case_records(prepared),
        }
        # first of all, for it marks the rest as a run's
        write_whole(self.folder / "run.json", json.dumps(record, indent=1) + "\n")
        save(config, self.settings_file, comment=_COMMENT)
        write_whole(self.splits_file, splits)
        write_refusals(self.refused_file, prepared.refusals)
        write_signatures(self.signatures_file, signatures_of(prepared))
        if found is not None:
            write_whole(self.audit_file, json.dumps(found.as_dict(), indent=1) + "\n")
        if plan is not None:
            about = {"format": FoldsPlan.FORMAT, **to_dict(plan)}
            write_whole(self.plan_file, json.dumps(about) + "\n")

    @property
    def labels(self) -> dict[str, Any] | None:
        """The labels of its cases when it began; None in runs of older versions.

        Raises:
            CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
        """
        record = self._required_record()
        return None if record is None else {case_id: one["label"] for case_id, one in record["cases"].items()}

    @property
    def audit(self) -> dict[str, Any] | None:
        """The audit before training, as plain values; None in runs of older versions.

        Raises:
            CheckpointError: If the file is damaged.
        """
        try:
            return dict(json.loads(self.audit_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            msg = "the audit cannot be read: the file is damaged"
            raise CheckpointError(msg, path=self.audit_file) from exc

    def known(self, card: ModelCard | None = None) -> KnownCases:
        """What an audit needs to know of the training and validation cases; notes say what cannot be compared and why.

        Under another key patients and studies cannot be recognised; scans are compared all the same.

        Args:
            card: Card of the model whose cases they are; None: that of the run's own model, if it has one.

        Raises:
            CohortError: If ``splits.csv`` cannot be read.
            CheckpointError: If the signatures, ``run.json`` or the card are damaged.
        """
        if card is None and self.state == "whole":
            card = read_card(self.model)
        why = self.why_unchecked(card)
        if not self._is_split_of(card):
            note = f"nothing was compared with the cases that trained the model: {why}"
            return KnownCases(trained_on=TrainedOn(), sources={}, unchecked=why, notes=(note,))
        splits = read_splits(self.splits_file)
        notes = []
        if why:
            what = "patients and studies" if splits.format == SPLITS_FORMAT else "patients, studies and exact scans"
            notes.append(f"{what} were not compared with those that trained the model: {why}")
        signatures = {}
        if self.signatures_file.exists():
            signatures = read_signatures(self.signatures_file)
        else:
            notes.append(
                "the run holds no signatures of its scans (it is of an older Hilum): altered copies of them, and their "
                "studies, are not looked for"
            )
        used = {case_id: one for case_id, one in signatures.items() if splits.parts.get(case_id, "test") != "test"}
        return KnownCases(
            trained_on=splits.trained_on,
            sources={
                case_id: replace(one.source, digest=splits.scans.get(case_id, "")) for case_id, one in used.items()
            },
            studies=frozenset(one.study for one in used.values()),
            unchecked=why,
            notes=tuple(notes),
        )

    def extend(self, origin: "Run", card: ModelCard, added: PreparedCohort) -> None:
        """Write the split of another run with further validation cases, and its record, around a model made from its.

        So the cases of both are recognised as seen. A record is written only if the other run has one; it holds the
        current key only if that is the other run's, since the patients of either could not be recognised otherwise.

        Args:
            origin: The run of the first model.
            card: Card of the first model.
            added: The further cases.

        Raises:
            CheckpointError: If the other run's ``run.json`` is damaged, or of a newer version.
        """
        is_known = origin.trained(card)
        before = read_splits(origin.splits_file, named_by_path=True) if is_known else Splits(parts={})
        record = origin._record() if is_known else None
        splits = extended_splits(before, added.cases, added.scans)
        names = [name for name in splits.parts if name not in before.parts]
        if is_known and origin.signatures_file.exists():  # else altered copies of the first cases would be missed
            own = signatures_of(added)
            pairs = zip(names, (case.case_id for case in added.cases), strict=True)
            both = read_signatures(origin.signatures_file) | {name: own[one] for name, one in pairs if one in own}
            write_signatures(self.signatures_file, both)
        text = splits.text
        if record is not None:
            key, current = record["key"], key_fingerprint()
            records = case_records(added)
            cases = {name: records[case.case_id] for name, case in zip(names, added.cases, strict=True)}
            record |= {
                "version": version("hilum"),
                "key": key if key == current else f"{key} and {current}",
                "split": _digest(text.encode()),
                "cases": record["cases"] | cases,
            }
            write_whole(self.folder / "run.json", json.dumps(record, indent=1) + "\n")
        write_whole(self.splits_file, text)

    def clear(self) -> None:
        """Remove the files of a run that has no checkpoint, and nothing else."""
        if self.state == "new" and self.folder.is_dir():
            own = set(self.folder.iterdir()) - set(self._strangers())
            for file in sorted(own, key=lambda file: file.name == "run.json"):  # last: it marks the rest as a run's
                if file.is_dir():
                    shutil.rmtree(file)
                elif file.name != ".lock":
                    file.unlink()

    def _strangers(self) -> list[Path]:
        """Files that are not recognised as a run's by name and content; without a run.json, every file but the lock."""
        file = self.folder / "run.json"
        is_run = file.is_file() and holds(file, _OWN_FILES["run.json"])
        return sorted(one for one in self.folder.iterdir() if not ((is_run or one.name == ".lock") and _is_own(one)))

    def check_own(self) -> None:
        """Check that a resumed run overwrites no file that it did not write.

        Raises:
            HilumError: If it would.
        """
        for name in ("metrics.csv", "history.png"):
            check_output(self.folder / name, _OWN_FILES[name])

    def remove_temporaries(self) -> None:
        """Remove the files that a killed process was writing, in a locked run."""
        for folder in (self.folder, self.checkpoint, self.model, *self.model.glob("members/*")):
            for file in filter(_is_temporary, folder.glob(".*")):
                file.unlink()

    def _record(self) -> dict[str, Any] | None:
        """Content of ``run.json``; None if it is not there.

        Raises:
            CheckpointError: If it cannot be read, is damaged, of a newer version, or belongs to another split.
        """
        file = self.folder / "run.json"
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
        if record["split"] != self.split_digest:
            msg = f"is not the record of {self.splits_file}: one of them comes from another run, or was changed"
            raise CheckpointError(msg, path=file)
        return record

    def _required_record(self) -> dict[str, Any] | None:
        """Content of ``run.json``; None for a run of an older version.

        Raises:
            CheckpointError: If it is damaged, of a newer version, or lost.
        """
        record = self._record()
        if record is None and read_splits(self.splits_file).format == SPLITS_FORMAT:
            msg = "is missing, without which nothing can be compared with what the run began with"
            raise CheckpointError(msg, path=self.folder / "run.json")
        return record

    def has_split(self, cohort: Cohort, parts: Mapping[str, str], scans: Mapping[str, str]) -> bool:
        """Whether ``splits.csv`` is that of these cases and parts, and the run's model, if any, was trained by it."""
        is_own = self.state != "whole" or read_card(self.model).training.get("split") == self.split_digest
        return is_own and self.split_digest == _digest(splits_text(cohort, parts, scans).encode())

    def trained(self, card: ModelCard) -> bool:
        """Whether the split in this folder trained a model; models of older versions do not say by which they were."""
        return self._is_split_of(card)

    def _is_split_of(self, card: ModelCard | None) -> bool:
        """Whether there is a split, and it trained a model; without a model there is nothing to compare it with."""
        wanted = None if card is None else card.training.get("split")
        return self.splits_file.exists() and wanted in (None, self.split_digest)

    def why_unchecked(self, card: ModelCard | None) -> str:
        """Reason why cases of a table cannot be compared with a model's training cases; empty if they can.

        Args:
            card: Card of the model; None for a run that has none yet.

        Raises:
            CheckpointError: If ``run.json`` is damaged, or of a newer version.
        """
        if not self._is_split_of(card):
            return "the model's run, whose splits.csv tells which cases trained it, is not the folder around it"
        record = self._record()
        if record is None:
            return "the run has no fingerprint of its key: it is of an older Hilum, or its run.json is lost"
        if record["key"] != key_fingerprint():
            return "the run was made with another key, so that its patients cannot be recognised"
        return ""

    def check_unchanged(self, cohort: Cohort, prepared: PreparedCohort) -> None:
        """Check that a resumed run has the same cohort as when it began.

        Raises:
            CohortError: If classes, or labels, weights or samples of cases have changed; the text names the first case.
            CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
        """
        record = self._required_record()
        if record is None:
            return
        if record["classes"] != list(cohort.classes):
            then_and_now = f"{', '.join(record['classes'])}, are {', '.join(cohort.classes)}"
            msg = f"{self.folder} cannot be resumed: its classes must be {then_and_now}"
            raise CohortError(msg)
        began = record.get("environment")  # absent in runs of older versions
        others = differences(began, self.settings.training.device) if began else []
        if others:
            _log.warning("warning: the run may differ from an unbroken one in the last digits: %s", "; ".join(others))
        changes = changed_cases(case_records(prepared), record["cases"], FIELDS)
        if changes:
            msg = f"{self.folder} cannot be resumed, the cohort has changed since it was begun: {first_of(changes)}"
            raise CohortError(msg, hint="train a new run")

    def check_tested(self, prepared: PreparedCohort, splits: Splits) -> None:
        """Check that the test part has the cases, labels and scans with which the run began.

        Raises:
            CohortError: If it has not; the text names the first case.
            CheckpointError: If ``run.json`` is damaged, lost, or of a newer version.
        """
        record = self._required_record()
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
            msg = f"the test part of {self.folder} has changed since the run was begun: {first_of(changes)}"
            raise CohortError(msg, hint="judge the model on the table instead: hilum evaluate RUN COHORT --out FOLDER")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_temporary(file: Path) -> bool:
    """Whether a file was being written when its process was killed."""
    return _TEMPORARY.fullmatch(file.absolute().as_posix()) is not None and file.is_file() and not file.is_symlink()


def _is_own(file: Path) -> bool:
    if file.name == ".lock" and not file.is_symlink():
        return file.stat().st_size == 0 if file.exists() else True  # its process has ended since
    if file.is_dir() and file.name == "last":  # an unfinished checkpoint
        return all(map(_is_temporary, file.iterdir()))
    if _is_temporary(file):
        return True
    for pattern, mark in _OWN_FILES.items():
        if file.match(pattern) and file.is_file():
            return holds(file, mark)
    return False
