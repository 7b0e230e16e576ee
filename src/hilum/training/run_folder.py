"""The run folder: its paths, its state, its lock, and a record of the cohort with which the run began."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hilum.cohorts.prepared import REFUSALS_MARK, PreparedCohort, write_refusals
from hilum.cohorts.split_file import SPLITS_FORMAT, Splits, patient_key, read_splits, write_splits
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import ModelCard
from hilum.errors import CheckpointError, CohortError, ConfigError, TrainingError
from hilum.files import PNG_MARK, holds, user_path, write_whole
from hilum.reading.identity import key_fingerprint
from hilum.settings.run import RunConfig
from hilum.settings.toml import load, save

try:
    import fcntl
except ImportError:  # Windows has no lock against a second process
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("hilum")

RUN_FORMAT = 1
STATE = "state.safetensors"
_FIELDS = ("label", "soft label", "weight", "sample")
"""What ``run.json`` keeps of each case."""
_COMMENT = "The settings of this run, as hilum train wrote them."
_OWN_FILES = {
    "config.toml": rf"^# {re.escape(_COMMENT)}",
    "run.json": r'^\{\s*"format": \d+,\s*"version"',
    "splits.csv": r"^case_id,split,patient,scan",
    "refused.csv": REFUSALS_MARK,
    "metrics.csv": r"^epoch,lr,train_loss",
    "history.png": PNG_MARK,
    "events.out.tfevents.*": "brain.Event:",
}
"""Files of a run that was stopped before its first checkpoint, and patterns of their content."""


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
    def refused_file(self) -> Path:
        """``refused.csv``: the refused cases; absent if there are none."""
        return self.folder / "refused.csv"

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
        """The runs inside this one, such as its folds."""
        return tuple(Run(file.parent) for file in sorted(self.folder.glob("*/config.toml")))

    @classmethod
    def of(cls, folder: str | Path) -> "Run":
        """The run of a run folder or of a model folder, for which the parent folder need not exist as one."""
        path = user_path(folder)
        is_run = any((path / name).exists() for name in ("config.toml", "run.json", "splits.csv", "model"))
        return cls(path) if is_run else cls(path.resolve().parent)

    @property
    def split_digest(self) -> str:
        """Digest of ``splits.csv``, by which a model knows the split that trained it."""
        return hashlib.sha256(self.splits_file.read_bytes()).hexdigest()[:16]

    @property
    def state(self) -> Literal["new", "begun", "whole"]:
        """new: no checkpoint. begun: can be resumed. whole: has a model."""
        if (self.model / "model.json").is_file():
            return "whole"
        return "begun" if (self.checkpoint / STATE).is_file() else "new"

    @cached_property
    def settings(self) -> RunConfig:
        """The settings of the run, with absolute paths."""
        return load(self.settings_file)

    @property
    def table(self) -> Path:
        """The table of cases."""
        return Path(self.settings.cohort.table)

    @property
    def store(self) -> Path:
        """The folder of the prepared samples."""
        return Path(self.settings.store)

    def splits(self, cohort: Cohort) -> Splits:
        """Read the split of the run, for its own table.

        Raises:
            CohortError: If the file is missing, the table has none of its cases, or cases have another patient or part.
        """
        splits = read_splits(self.splits_file, named_by_path=cohort.named_by_path)
        _check_patients(self.folder, splits, cohort)
        has_val = any(case.split == "val" for case in cohort.cases)  # else val was drawn from the training rows
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
            ConfigError: If the folder holds a run, an input, or files that no stopped run left behind.
        """
        is_taken = self.folder.exists() or self.folder.is_symlink()
        strangers = self._strangers() if self.folder.is_dir() else [self.folder] if is_taken else []
        if self.state != "new" or strangers:
            what = f"a {self.state} run" if self.state != "new" else f"{strangers[0].name}, which no run wrote"
            msg = f"the run folder {self.folder} must be new or empty (or resume the run in it), it holds {what}"
            raise ConfigError(msg)
        for one in inputs:
            if Path(one).resolve().parent == self.folder.resolve():
                msg = f"the run folder {self.folder} must hold none of the run's inputs, it holds {Path(one).name}"
                raise ConfigError(msg, hint="move it, or name another --out")

    def begin(self, config: RunConfig, cohort: Cohort, prepared: PreparedCohort, parts: dict[str, str]) -> None:
        """Write settings, split, refusals and a record of the cohort, with which a resume is compared.

        Args:
            config: All settings, fully resolved.
            cohort: The table as it was read.
            prepared: Its usable cases.
            parts: Part of each case of the table.
        """
        self.clear()
        about = {
            "format": RUN_FORMAT,
            "version": version("hilum"),
            "key": key_fingerprint(),
            "classes": cohort.classes,
            "cases": _records(prepared),
        }
        write_whole(self.folder / "run.json", json.dumps(about, indent=1) + "\n")  # first: it marks the rest as a run's
        save(config, self.settings_file, comment=_COMMENT)
        write_splits(self.splits_file, cohort, parts, prepared.scans)
        write_refusals(self.refused_file, prepared.refusals)

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
        may_be_own = [one for one in self.folder.iterdir() if is_run or one.name == ".lock"]
        return sorted(set(self.folder.iterdir()) - {one for one in may_be_own if _is_own(one)})

    def _about(self) -> dict[str, Any] | None:
        """Content of ``run.json``; None if it is not there.

        Raises:
            CheckpointError: If it is damaged, or of a newer version.
        """
        file = self.folder / "run.json"
        if not file.exists():
            return None
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            about = None
        number = about.get("format") if isinstance(about, dict) else None
        if number is not None and (type(number) is not int or number != RUN_FORMAT):
            msg = f"the format must be {RUN_FORMAT}, is {number!r}: use the Hilum that wrote it"
            raise CheckpointError(msg, path=file)
        if not _is_record(about):
            msg = "is damaged: it must hold format, key, classes, and the fields of each case"
            raise CheckpointError(msg, path=file)
        record: dict[str, Any] = about
        return record

    def _begun_with(self) -> dict[str, Any] | None:
        """Content of ``run.json``; None for a run of an older version.

        Raises:
            CheckpointError: If it is damaged, of a newer version, or lost.
        """
        about = self._about()
        if about is None and read_splits(self.splits_file).format == SPLITS_FORMAT:
            msg = "is missing, without which nothing can be compared with what the run began with"
            raise CheckpointError(msg, path=self.folder / "run.json")
        return about

    def trained(self, card: ModelCard) -> bool:
        """Whether the split in this folder trained a model; models of older versions do not say by which they were."""
        return self.splits_file.exists() and card.training.get("split") in (None, self.split_digest)

    def why_unchecked(self, card: ModelCard) -> str:
        """Reason why cases of a table cannot be compared with a model's training cases; empty if they can."""
        if not self.trained(card):
            return "the model's run, whose splits.csv tells which cases trained it, is not the folder around it"
        about = self._about()
        if about is None:
            return "the run has no fingerprint of its key: it is of an older Hilum, or its run.json is lost"
        if about["key"] != key_fingerprint():
            return "the run was made with another key, so that its patients cannot be recognised"
        return ""

    def check_unchanged(self, cohort: Cohort, prepared: PreparedCohort) -> None:
        """Check that a resumed run has the same cohort as when it began.

        Raises:
            CohortError: If classes, or labels, weights or samples of cases have changed; the text names the first case.
        """
        about = self._begun_with()
        if about is None:
            return
        if about["classes"] != list(cohort.classes):
            then_and_now = f"{', '.join(about['classes'])}, are {', '.join(cohort.classes)}"
            msg = f"{self.folder} cannot be resumed: its classes must be {then_and_now}"
            raise CohortError(msg)
        changes = _changes(_records(prepared), about["cases"], _FIELDS)
        if changes:
            msg = f"{self.folder} cannot be resumed, the cohort has changed since it was begun: {_first(changes)}"
            raise CohortError(msg, hint="train a new run")

    def check_tested(self, prepared: PreparedCohort, splits: Splits) -> None:
        """Check that the test part has the cases, labels and scans with which the run began.

        Raises:
            CohortError: If it has not; the text names the first case.
        """
        about = self._begun_with()
        if about is None:
            return
        tested = {case_id: record for case_id, record in about["cases"].items() if splits.parts.get(case_id) == "test"}
        changes = _changes(_records(prepared), tested, ["label"])
        changes += [
            f"the scan of case {case_id!r}"
            for case_id, digest in prepared.scans.items()
            if case_id in tested and splits.format == SPLITS_FORMAT and digest != splits.scans.get(case_id)
        ]
        if changes:
            msg = f"the test part of {self.folder} has changed since the run was begun: {_first(changes)}"
            raise CohortError(msg, hint="judge the model on the table instead: hilum evaluate RUN COHORT --out FOLDER")


def _check_patients(folder: Path, splits: Splits, cohort: Cohort) -> None:
    """Check that cases share patients as they did when a run began; works under any key.

    Raises:
        CohortError: If a case has another patient; it is named.
    """
    now = {case.case_id: patient_key(case) for case in cohort.cases if case.case_id in splits.parts}
    before = {case_id: splits.patients.get(case_id, "") for case_id in now}
    changed = set().union(*(_by_patient(now) ^ _by_patient(before)))
    if changed:
        msg = f"the patient of case {min(changed)!r} in {cohort.source} has changed since {folder} was begun"
        raise CohortError(msg, hint="train a new run")


def _by_patient(patients: dict[str, str]) -> set[frozenset[str]]:
    """The cases of each patient; cases without an id are left out."""
    cases: dict[str, set[str]] = {}
    for case_id, patient in patients.items():
        cases.setdefault(patient, set()).add(case_id)
    return {frozenset(some) for patient, some in cases.items() if patient}


def _is_record(about: object) -> bool:
    """Whether the content of a ``run.json`` has all that is read of it."""
    if not (isinstance(about, dict) and isinstance(about.get("cases"), dict) and about["cases"]):
        return False
    has_fields = all(isinstance(case, dict) and set(_FIELDS) <= case.keys() for case in about["cases"].values())
    return has_fields and isinstance(about.get("key"), str) and isinstance(about.get("classes"), list)


def _changes(now: dict[str, dict[str, Any]], then: dict[str, dict[str, Any]], names: Iterable[str]) -> list[str]:
    """What differs between records of cases in the fields of these names."""
    changes: list[str] = []
    for case_id in sorted(then.keys() | now.keys()):
        if case_id not in now or case_id not in then:
            changes.append(f"case {case_id!r} {'is new' if case_id in now else 'can no longer be used'}")
            continue
        fields = [name for name in names if now[case_id][name] != then[case_id][name]]
        changes += [f"the {' and '.join(fields)} of case {case_id!r}"] if fields else []
    return changes


def _first(changes: list[str]) -> str:
    return changes[0] + (f" and {len(changes) - 1} more" if len(changes) > 1 else "")


def _records(prepared: PreparedCohort) -> dict[str, dict[str, Any]]:
    """Label, weight and sample of each case; the name of a sample depends on scan, recipe and code version."""
    return {
        case.case_id: {
            "label": list(case.present) or case.label,
            "soft label": case.soft_label,
            "weight": case.weight,
            "sample": file.stem,
        }
        for case, file in zip(prepared.cases, prepared.samples, strict=True)
    }


def _is_own(file: Path) -> bool:
    if file.name == ".lock" and not file.is_symlink():
        return file.stat().st_size == 0
    if file.is_dir() and file.name == "last":  # an unfinished checkpoint
        return all(one.name.startswith(f".{STATE}.") for one in file.iterdir())
    for pattern, mark in _OWN_FILES.items():
        if file.match(pattern) and file.is_file():
            return holds(file, mark)
    return False
