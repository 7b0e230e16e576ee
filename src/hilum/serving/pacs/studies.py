"""The studies of a PACS: receiving, waiting for their job, then predicted, ignored or failed, over any crash."""

import contextlib
import hashlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hilum.errors import HilumError, ReadError
from hilum.files import sync_to_disk
from hilum.reading.identity import hashed
from hilum.serving.app.database import Database
from hilum.serving.app.jobs import Job, Jobs, JobSettings
from hilum.serving.pacs.deliveries import Deliveries
from hilum.serving.pacs.instance import InstanceHeader, read_instance
from hilum.serving.pacs.rules import model_for
from hilum.settings.serving import ServeConfig

_log = logging.getLogger("hilum.serve")

NODE = "node"
"""Name of the node as a source."""

STUDY_STATES = ("receiving", "waiting", "predicted", "ignored", "failed")

_DIGITS = 16
"""Of the digest of an instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study.

    Attributes:
        id: Random.
        source: ``node``, or the name of a web source.
        uid: StudyInstanceUID; never leaves the data base and the PACS.
        state: receiving, waiting, predicted, ignored or failed.
        result: How it ended last: predicted, ignored or failed; empty: it never did.
        code: Code of its failure, or of why it was ignored.
        reason: The same in words.
        job: Id of its latest job.
        num_bytes: Size of its files here.
        too_large: Whether instances were refused because it would have become larger than a scan may be.
        changed: When its state, or what came of it, last changed; seconds since 1970.
        created: When it was first seen.
        content: Digests of the instances that it had when it ended last.
        seen: Digest of what a search said of it last.
        fetched: Digest of its series when they were fetched last.
    """

    id: str
    source: str
    uid: str = field(repr=False)
    state: str
    result: str
    code: str
    reason: str
    job: str
    num_bytes: int
    too_large: bool
    changed: float
    created: float
    content: str = field(repr=False)
    seen: str = field(repr=False)
    fetched: str = field(repr=False)


_COLUMNS = (
    "id, source, uid, state, result, code, reason, job, num_bytes, too_large, changed, created, content, seen, fetched"
)


def _study(row: sqlite3.Row) -> Study:
    return Study(**{**dict(zip(row.keys(), row, strict=True)), "too_large": bool(row["too_large"])})


class Studies:
    """The studies of all sources.

    Args:
        database: The data base.
        jobs: The queue.
        deliveries: Where results go.
        config: The settings.
        wake: Called when there is a new job.
    """

    def __init__(
        self, database: Database, jobs: Jobs, deliveries: Deliveries, config: ServeConfig, wake: Callable[[], None]
    ) -> None:
        self._wake = wake
        self.database, self.jobs, self.deliveries, self.config = database, jobs, deliveries, config
        self.folder = database.folder / "pacs"
        self._lock = threading.RLock()  # never taken within a transaction
        self._arrived: dict[str, float] = {}
        self._sizes: dict[str, int] = {}

    def __getitem__(self, id: str) -> Study:  # noqa: A002
        found = self.database.rows(f"SELECT {_COLUMNS} FROM studies WHERE id = ?", (id,))  # noqa: S608
        if not found:
            raise KeyError(id)
        return _study(found[0])

    def of(self, source: str = "", *, state: str = "", most: int = 1000, offset: int = 0) -> list[Study]:
        """Studies, the latest first.

        Args:
            source: Of this source alone.
            state: In this state alone.
            most: Most of them.
            offset: Number of those that come before and are left out.
        """
        wanted = [(column, value) for column, value in (("source", source), ("state", state)) if value]
        where = " AND ".join(f"{column} = ?" for column, _ in wanted) or "1"
        query = f"SELECT {_COLUMNS} FROM studies WHERE {where} ORDER BY changed DESC, id LIMIT ? OFFSET ?"  # noqa: S608
        return [_study(row) for row in self.database.rows(query, [*(value for _, value in wanted), most, offset])]

    def find(self, source: str, uid: str) -> Study | None:
        """The study of a source with a UID; None: it was never seen."""
        query = f"SELECT {_COLUMNS} FROM studies WHERE source = ? AND uid = ?"  # noqa: S608
        found = self.database.rows(query, (source, uid))
        return _study(found[0]) if found else None

    def counts(self) -> dict[str, int]:
        """Number of studies in each state."""
        rows = self.database.rows("SELECT state, count(*) FROM studies GROUP BY state")
        return {str(state): int(count) for state, count in rows}

    def expect(self, source: str, uid: str, *, seen: str | None = None) -> Study:
        """Begin to receive a study, for the first time or again.

        Args:
            source: Its source.
            uid: Its StudyInstanceUID.
            seen: Digest of what a search said of it; None: as before.
        """
        now = time.time()
        with self.database.change() as connection:
            study = self.find(source, uid)
            if study is None:
                study_id = secrets.token_hex(16)
                connection.execute(
                    "INSERT INTO studies (id, source, uid, state, seen, changed, created) "
                    "VALUES (?, ?, ?, 'receiving', ?, ?, ?)",
                    (study_id, source, uid, seen or "", now, now),
                )
                return self[study_id]
            if study.state != "receiving":
                connection.execute(
                    "UPDATE studies SET state = 'receiving', too_large = 0, changed = ? WHERE id = ?", (now, study.id)
                )
            if seen is not None:
                connection.execute("UPDATE studies SET seen = ? WHERE id = ?", (seen, study.id))
        return self[study.id]

    def note_seen(self, study: Study, seen: str) -> None:
        """Note what a search said of a study that has not changed."""
        with self.database.change() as connection:
            connection.execute("UPDATE studies SET seen = ? WHERE id = ?", (seen, study.id))

    def note_trouble(self, study: Study, code: str, reason: str) -> None:
        """Note why a study could not be received yet, for those who look at it; what it had ended with is decided anew.

        Args:
            study: A study that is being received.
            code: Code of the trouble.
            reason: The same in words.
        """
        with self.database.change() as connection:
            connection.execute(
                "UPDATE studies SET code = ?, reason = ?, "
                "content = CASE result WHEN 'predicted' THEN content ELSE '' END, "
                "fetched = CASE result WHEN 'predicted' THEN fetched ELSE '' END WHERE id = ? AND state = 'receiving'",
                (code, reason, study.id),
            )
        _log.warning("study", extra={"study": study.id, "state": "receiving", "code": code, "reason": reason})

    def _cancel_waiting(self, study: Study) -> None:
        """Cancel a job that has not begun: it would be out of date."""
        with contextlib.suppress(KeyError), self.database.change():
            if self.jobs[study.job].state == "queued":
                self.jobs.cancel(study.job, study.source)

    def place(self, header: InstanceHeader, file: Path) -> str:
        """Move a file that the node received to its study, where it is on disk when this returns.

        Returns:
            Id of the study.

        Raises:
            OSError: If it cannot be written.
            HilumError: If the study becomes larger than a scan may be.
        """
        sync_to_disk(file)
        size = file.stat().st_size
        with self._lock:
            study = self.find(NODE, header.study)
            if study is None or study.state != "receiving":
                if study is not None and study.state == "waiting":
                    self._cancel_waiting(study)
                study = self.expect(NODE, header.study)
            folder = self.folder / study.id
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
                sync_to_disk(self.folder)
            target = folder / instance_file(header.instance)
            held = self._sizes.get(study.id)
            held = folder_size(folder) if held is None else held
            held += size - (target.stat().st_size if target.exists() else 0)
            if held > self.config.limits.unpacked_gb * 1e9:
                with self.database.change() as connection:
                    connection.execute("UPDATE studies SET too_large = 1 WHERE id = ?", (study.id,))
                msg = "a study must not be larger than limits.unpacked_gb"
                raise HilumError(msg, code="too-large")
            self._sizes[study.id] = held
            file.rename(target)
            sync_to_disk(folder)
            self._arrived[study.id] = time.monotonic()
        return study.id

    def quiet_s(self, study: Study) -> float:
        """Seconds since an instance of a study of the node came, or since the start."""
        with self._lock:
            return time.monotonic() - self._arrived.setdefault(study.id, time.monotonic())

    def replace_files(self, study: Study, folder: Path) -> None:
        """Put a folder that was fetched in the place of a study's files."""
        for file in folder.iterdir():
            sync_to_disk(file)
        target = self.folder / study.id
        self.database.remove("pacs", study.id)
        folder.rename(target)
        sync_to_disk(target)
        sync_to_disk(self.folder)

    def settle(self, study: Study, *, fetched: str = "") -> None:
        """Decide on a study that is complete: leave it as it was, ignore it, or put it into the queue.

        Args:
            study: A study that is being received.
            fetched: Digest of its series, if it was fetched.

        Raises:
            QueueFullError: If as many jobs wait as may: try again later.
        """
        if self.is_working(study):
            return
        with self._lock:
            arrived = self._arrived.get(study.id)
        folder = self.folder / study.id
        content, headers = content_of(folder)
        model = model_for(headers, self.config.rules)
        with self._lock:  # no instance comes before this is decided
            study = self[study.id]
            is_again = study.result == "failed" and (study.source == NODE or not study.fetched)
            if study.state != "receiving" or self._arrived.get(study.id) != arrived:
                return  # more came meanwhile
            if study.too_large:
                reason = f"it is larger than limits.unpacked_gb, {self.config.limits.unpacked_gb:g} GB"
                self._end(study, "failed", code="too-large", reason=reason, content=content, fetched=fetched)
            elif content and study.result and not is_again and set(study.content.split()).issuperset(content):
                self.restore(study)
            elif not headers:
                self._end(study, "ignored", code="no-ct", reason="it has no CT", content=content, fetched=fetched)
            elif model is None:
                reason = "no rule fits one of its CT series"
                self._end(study, "ignored", code="no-rule", reason=reason, content=content, fetched=fetched)
            else:
                self._submit(study, model, content, fetched)
            self._forget_times(study.id)

    def _forget_times(self, id: str) -> None:  # noqa: A002
        """Forget when instances of a study came, and its size: it is no longer being received."""
        with self._lock:
            self._arrived.pop(id, None)
            self._sizes.pop(id, None)

    def is_working(self, study: Study) -> bool:
        """Whether a job reads the files of a study, or is going to."""
        try:
            return bool(study.job) and not self.jobs[study.job].has_ended
        except KeyError:
            return False

    def restore(self, study: Study) -> None:
        """Leave a study as it was before it was received again; its files are kept for ``keep_hours`` again."""
        state = "waiting" if self.is_working(study) else study.result
        with self._lock:
            size = folder_size(self.folder / study.id)
            with self.database.change() as connection:
                connection.execute(
                    "UPDATE studies SET state = ?, num_bytes = ?, "
                    "code = CASE result WHEN 'predicted' THEN '' ELSE code END, "
                    "reason = CASE result WHEN 'predicted' THEN '' ELSE reason END "
                    "WHERE id = ? AND state = 'receiving'",
                    (state, size, study.id),
                )
            if state == "ignored":
                self.remove_files(study.id)
        _log.info("study", extra={"study": study.id, "state": state, "code": "unchanged"})

    def _submit(self, study: Study, model: str, content: Sequence[str], fetched: str) -> None:
        outputs: tuple[Any, ...] = ("dicom", "maps") if "map" in self.config.delivery.objects else ("dicom",)
        job, size = self.jobs.new_id(), folder_size(self.folder / study.id)
        with self.database.change() as connection:
            self.jobs.add(
                job, model=model, settings=JobSettings(outputs=outputs), num_bytes=size, origin=study.source,
                study=study.id, who=study.source,
            )  # fmt: skip
            connection.execute(
                "UPDATE studies SET state = 'waiting', job = ?, content = ?, fetched = ?, num_bytes = ?, code = '', "
                "reason = '', report = 0, changed = ? WHERE id = ?",
                (job, " ".join(content), fetched, size, time.time(), study.id),
            )
        _log.info("study", extra={"study": study.id, "state": "waiting", "job": job})
        self._wake()

    def _end(
        self, study: Study, result: str, *, code: str, reason: str, content: Sequence[str] | None = None,
        fetched: str | None = None,
    ) -> None:  # fmt: skip
        """End a study without a job's result."""
        wants_report = result == "failed" and self.config.delivery.report_failures
        with self.database.change() as connection:
            connection.execute(
                "UPDATE studies SET state = ?, result = ?, code = ?, reason = ?, content = ?, fetched = ?, report = ?, "
                "num_bytes = ?, changed = ? WHERE id = ?",
                (
                    result, result, code, reason,
                    study.content if content is None else " ".join(content),
                    study.fetched if fetched is None else fetched,
                    int(wants_report), 0 if result == "ignored" else folder_size(self.folder / study.id),
                    time.time(), study.id,
                ),
            )  # fmt: skip
        if result == "ignored":
            self.remove_files(study.id)
        _log.info("study", extra={"study": study.id, "state": result, "code": code})

    def fail(self, study: Study, code: str, reason: str) -> None:
        """End a study as failed that never came to a job."""
        self._end(study, "failed", code=code, reason=reason, fetched="")

    def on_end(self, job: Job) -> None:
        """Write down the end of a study's job, within one transaction with it; see ``Pacs.on_end``."""
        with self.database.change():  # an instance that comes meanwhile changes the state after it
            self._on_end(job)

    def _on_end(self, job: Job) -> None:
        try:
            study = self[job.study]
        except KeyError:
            return
        if study.job != job.id:
            return
        is_left = study.state == "receiving"  # more of it came meanwhile
        result = "predicted" if job.state == "done" else "failed"
        code, reason = ("", "") if job.state == "done" else (job.code or job.state, job.reason or job.state)
        with self.database.change() as connection:
            if job.state == "done":
                self.deliveries.add(study.source, study.id, job.id, self._files(job), study_uid=study.uid)
            wants_report = result == "failed" and not is_left and self.config.delivery.report_failures
            connection.execute(
                "UPDATE studies SET state = ?, result = ?, code = ?, reason = ?, report = ?, changed = ? WHERE id = ?",
                (study.state if is_left else result, result, code, reason, int(wants_report), time.time(), study.id),
            )
        _log.info("study", extra={"study": study.id, "state": result, "code": code, "job": job.id})

    def _files(self, job: Job) -> dict[Path, str]:
        """SOPInstanceUID of each object of a result, by its file."""
        folder = self.database.folder / "results" / job.id
        return {folder / str(name): str(uid) for name, uid in job.summary.get("dicom", {}).items()}

    def reconcile(self) -> None:
        """Take note of jobs that ended without ``on_end``, such as those that were cancelled while they waited."""
        for study in self.of(state="waiting", most=1_000_000):
            try:
                job = self.jobs[study.job]
            except KeyError:
                job = None
            if job is None or job.state == "deleted":  # it vanished: once more
                self.expect(study.source, study.uid)
            elif job.has_ended:
                self.on_end(job)

    def recover(self) -> None:
        """After a new start: remove files without a study, and count the time of quiet anew."""
        query = (
            "SELECT id FROM studies WHERE state IN ('receiving', 'waiting') OR (state != 'ignored' AND num_bytes > 0)"
        )
        known = {str(row["id"]) for row in self.database.rows(query)}
        for entry in self.folder.iterdir():
            if entry.name not in known:
                self.database.remove("pacs", entry.name)

    def again(self, id: str) -> None:  # noqa: A002
        """Begin a study that has ended anew, so that it is predicted again.

        Raises:
            HilumError: If it has not ended, or its files are no longer here.
        """
        study = self[id]
        if study.state != study.result:
            msg = "a study must have ended to be predicted again"
            raise HilumError(msg)
        if study.source == NODE and not (self.folder / id).is_dir():
            msg = "its files are no longer here: send it again"
            raise HilumError(msg)
        with self.database.change() as connection:
            connection.execute("UPDATE studies SET content = '', fetched = '', result = '' WHERE id = ?", (id,))
            self.expect(study.source, study.uid)

    def remove_files(self, id: str) -> None:  # noqa: A002
        """Remove the files of a study."""
        with self._lock:
            self.database.remove("pacs", id)
            self._sizes.pop(id, None)
            with self.database.change() as connection:
                connection.execute("UPDATE studies SET num_bytes = 0 WHERE id = ?", (id,))

    def expire(self) -> None:
        """Remove the files of studies that ended ``keep_hours`` ago, and records that are older than ``keep_days``."""
        now, config = time.time(), self.config
        ended = "state IN ('predicted', 'ignored', 'failed') AND report = 0"
        rows = self.database.rows(
            f"SELECT id FROM studies WHERE {ended} AND num_bytes > 0 AND changed < ?",  # noqa: S608
            (now - config.keep_hours * 3600,),
        )
        for row in rows:
            with self._lock:  # an instance may have come meanwhile
                if self.database.rows(f"SELECT 1 FROM studies WHERE {ended} AND id = ?", (row["id"],)):  # noqa: S608
                    self.remove_files(str(row["id"]))
        forever = [one.name for one in config.web if one.days == 0]  # it would be found and predicted again
        days = max([config.keep_days, *(one.days + 2 for one in config.web)])
        marks = ", ".join("?" * len(forever)) or "''"
        with self.database.change() as connection:
            connection.execute(
                f"DELETE FROM studies WHERE {ended} AND num_bytes = 0 AND changed < ? "  # noqa: S608
                f"AND source NOT IN ({marks}) "
                "AND id NOT IN (SELECT study FROM objects WHERE state = 'waiting')",
                (now - days * 86400, *forever),
            )


def instance_file(uid: str) -> str:
    """Name of the file of an instance, by which its UID is not known."""
    return f"{hashed('instance', uid)}.dcm"


def folder_size(folder: Path) -> int:
    """Bytes of the files of a folder; 0 if it is not there."""
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


def content_of(folder: Path) -> tuple[list[str], list[InstanceHeader]]:
    """A digest of each instance in a folder, and the headers of those that can be read."""
    digests, headers = [], []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest()[:_DIGITS])
        try:
            headers.append(read_instance(file))
        except ReadError:
            continue
    return digests, headers
