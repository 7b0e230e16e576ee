"""The run folder: its paths, its state, its lock, and its begin."""

import contextlib
import csv
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

from hilum.cohorts.audit import AUDIT_MARK, Audit
from hilum.cohorts.prepared import REFUSALS_MARK, PreparedCohort, write_refusals
from hilum.cohorts.signature_file import SIGNATURES_MARK, signatures_of, write_signatures
from hilum.cohorts.split_file import splits_text
from hilum.cohorts.table import Cohort
from hilum.errors import CheckpointError, CohortError, ConfigError, HilumError, TrainingError, require
from hilum.files import PNG_MARK, check_output, check_place, holds, user_path, write_whole
from hilum.reading.identity import key_fingerprint
from hilum.settings.run import RunConfig
from hilum.settings.toml import from_dict, load, save, to_dict
from hilum.training.environment import environment_of
from hilum.training.folds_plan import FoldsPlan
from hilum.training.run_record import RUN_FORMAT, case_records, settings_record, text_digest

try:
    import fcntl
except ImportError:  # Windows has no lock against a second process
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("hilum")

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
            return text_digest(self.splits_file.read_bytes())
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
    def is_member(self) -> bool:
        """Whether it is a member of a run of folds."""
        return self.folder.name.startswith("fold-") and Run(self.folder.parent).plan_file.is_file()

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

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the operating system's errors into one that names the folder, and say how a run that began goes on.

        Raises:
            HilumError: If a file cannot be written.
        """
        try:
            yield
        except HilumError as exc:
            if isinstance(exc.__cause__, OSError) and exc.hint is None and self.state == "begun":
                exc.hint = f"once that is mended, {self.resume_command} goes on"
            raise
        except OSError as exc:
            hint = f"once that is mended, {self.resume_command} goes on" if self.state == "begun" else None
            msg = f"the run folder {self.folder} cannot be written: {exc.strerror or exc}"
            raise ConfigError(msg, hint=hint) from exc

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
            "split": text_digest(splits.encode()),
            "classes": cohort.classes,
            "settings": settings_record(config),
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
