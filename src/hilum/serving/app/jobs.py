"""The queue: jobs in the data base, each of which is done, failed with its reason, or cancelled in the end."""

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hilum.errors import HilumError
from hilum.serving.app.database import Database

Output = Literal["dicom", "page", "maps"]
JobEnd = Literal["done", "failed", "cancelled"]
OUTPUTS: tuple[Output, ...] = ("dicom", "page", "maps")
ENDED = ("done", "failed", "cancelled")

_MOST_ATTEMPTS = 2
"""A job whose process crashed or hung is tried once more."""

_MOST_INTERRUPTIONS = 20
"""Ends of the whole service, which are hardly the fault of a job that runs through so many."""


class QueueFullError(HilumError):
    """The queue holds as many jobs as it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What a client wants of a job.

    Attributes:
        outputs: What is made beside the JSON.
        point_mm: LPS mm (x, y, z), for models of region ``point``.
        series: The series to read; empty: chosen by the doctor's points.
    """

    outputs: tuple[Output, ...] = ()
    point_mm: tuple[float, float, float] | None = None
    series: str = ""

    def text(self) -> str:
        """As JSON, for the data base."""
        point = None if self.point_mm is None else list(self.point_mm)
        return json.dumps({"outputs": list(self.outputs), "point_mm": point, "series": self.series})

    @classmethod
    def of(cls, text: str) -> "JobSettings":
        """The inverse of ``text``."""
        values = json.loads(text)
        x = values["point_mm"]
        point = None if x is None else (float(x[0]), float(x[1]), float(x[2]))
        return cls(outputs=tuple(values["outputs"]), point_mm=point, series=values["series"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the queue.

    Attributes:
        id: Random; who does not know it cannot guess it.
        state: queued, running, done, failed, cancelled or deleted.
        step: What a running job does.
        model: Name of the model.
        settings: What is wanted.
        origin: ``upload``, or the name of a PACS.
        study: Id of the study, where it comes from a PACS.
        num_bytes: Size of the upload.
        attempts: How often its process crashed or hung.
        is_cancelled: Whether it shall end.
        code: Code of its failure.
        reason: The same in words, without names, dates and paths.
        summary: What the monitor counts: decision, outcome, codes, probabilities, facts, seconds by step.
        created: Time of its arrival, as all times in seconds since 1970.
        started: When it last started.
        ended: When it ended.
        removed: When its upload and result were removed.
    """

    id: str
    state: str
    step: str
    model: str
    settings: JobSettings
    origin: str
    study: str
    num_bytes: int
    attempts: int
    is_cancelled: bool
    code: str
    reason: str
    summary: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    removed: float | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("queued", "running")


def _job(row: sqlite3.Row, steps: Mapping[str, str]) -> Job:
    return Job(
        id=row["id"],
        state=row["state"],
        step=steps.get(row["id"], "starting") if row["state"] == "running" else "",
        model=row["model"],
        settings=JobSettings.of(row["settings"]),
        origin=row["origin"],
        study=row["study"],
        num_bytes=row["num_bytes"],
        attempts=row["attempts"],
        is_cancelled=bool(row["cancelled"]),
        code=row["code"],
        reason=row["reason"],
        summary=json.loads(row["summary"]) if row["summary"] else {},
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
        removed=row["removed"],
    )


class Jobs:
    """The jobs of a data base.

    Args:
        database: The data base.
        longest: Most jobs that may wait.
    """

    def __init__(self, database: Database, *, longest: int) -> None:
        self.database, self.longest = database, longest
        self._steps: dict[str, str] = {}  # of running jobs

    @staticmethod
    def new_id() -> str:
        """An id for a job that is to come."""
        return secrets.token_hex(16)

    def add(
        self,
        id: str,  # noqa: A002
        *,
        model: str,
        settings: JobSettings,
        num_bytes: int,
        origin: str = "upload",
        study: str = "",
        who: str = "",
    ) -> Job:
        """Put a job into the queue, whose upload lies in ``uploads/ID``, or that of a study in ``pacs/STUDY``.

        Raises:
            QueueFullError: If as many jobs wait as may.
        """
        with self.database.change() as connection:
            self.check_room()
            connection.execute(
                "INSERT INTO jobs (id, state, model, settings, origin, study, num_bytes, created) "
                "VALUES (?, 'queued', ?, ?, ?, ?, ?, ?)",
                (id, model, settings.text(), origin, study, num_bytes, time.time()),
            )
            self.database.audit(who or origin, "submitted", id)
        return self[id]

    def check_room(self) -> None:
        """Raise a QueueFullError if as many jobs wait as may."""
        waiting = self.counts().get("queued", 0)
        if waiting >= self.longest:
            msg = f"at most {self.longest} jobs may wait, {waiting} do"
            raise QueueFullError(msg)

    def __getitem__(self, id: str) -> Job:  # noqa: A002
        found = self.database.rows("SELECT * FROM jobs WHERE id = ?", (id,))
        if not found:
            raise KeyError(id)
        return _job(found[0], self._steps)

    def latest(self, *, most: int = 100, offset: int = 0, state: str = "") -> list[Job]:
        """The latest jobs that were not deleted, the newest first."""
        query, values = "SELECT * FROM jobs WHERE state != 'deleted'", list[Any]()
        if state:
            query, values = f"{query} AND state = ?", [state]
        rows = self.database.rows(f"{query} ORDER BY number DESC LIMIT ? OFFSET ?", [*values, most, offset])
        return [_job(row, self._steps) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        rows = self.database.rows("SELECT state, count(*) FROM jobs GROUP BY state")
        return {str(state): int(count) for state, count in rows}

    def place(self, job: Job) -> int:
        """How many jobs come before a queued one."""
        query = "SELECT count(*) FROM jobs WHERE state = 'queued' AND number < (SELECT number FROM jobs WHERE id = ?)"
        return int(self.database.rows(query, (job.id,))[0][0])

    def take(self) -> Job | None:
        """Start the job that has waited longest; None: nothing waits."""
        with self.database.change() as connection:
            found = connection.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchall()
            if not found:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'running', started = ? WHERE id = ?",
                (time.time(), found[0]["id"]),
            )
        return self[found[0]["id"]]

    def at_step(self, id: str, step: str) -> None:  # noqa: A002
        """Note what a running job does; this is kept in memory alone."""
        self._steps[id] = step
        self.database.revision += 1

    def end(
        self,
        id: str,  # noqa: A002
        state: JobEnd,
        *,
        code: str = "",
        reason: str = "",
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """End a running job."""
        self._steps.pop(id, None)
        with self.database.change() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, code = ?, reason = ?, summary = ?, ended = ? "
                "WHERE id = ? AND state = 'running'",
                (state, code, reason, json.dumps(summary or {}), time.time(), id),
            )

    def lost(self, id: str, code: str, reason: str) -> bool:  # noqa: A002
        """Note that a running job's process crashed or hung: it waits for its second try, or has failed.

        Returns:
            Whether it waits.
        """
        with self.database.change() as connection:
            connection.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (id,))
            if self[id].attempts >= _MOST_ATTEMPTS:
                self.end(id, "failed", code=code, reason=f"{reason}, twice")
                return False
            self.put_back(id)
        return True

    def put_back(self, id: str) -> None:  # noqa: A002
        """Let a running job wait again, at its old place."""
        self._steps.pop(id, None)
        with self.database.change() as connection:
            connection.execute("UPDATE jobs SET state = 'queued' WHERE id = ? AND state = 'running'", (id,))

    def recover(self) -> list[str]:
        """After a new start: jobs that ran when the service ended wait again, unless that happened too often.

        Returns:
            Ids of these jobs.
        """
        with self.database.change() as connection:
            rows = connection.execute("SELECT id, interruptions FROM jobs WHERE state = 'running'").fetchall()
            for row in rows:
                connection.execute("UPDATE jobs SET interruptions = interruptions + 1 WHERE id = ?", (row["id"],))
                if row["interruptions"] + 1 > _MOST_INTERRUPTIONS:
                    reason = f"the service ended {_MOST_INTERRUPTIONS + 1} times while it worked on it"
                    self.end(row["id"], "failed", code="interrupted", reason=reason)
                else:
                    self.put_back(row["id"])
            connection.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ? WHERE state = 'queued' AND cancelled = 1",
                (time.time(),),
            )
        return [str(row["id"]) for row in rows]

    def cancel(self, id: str, who: str) -> Job:  # noqa: A002
        """Cancel a job: at once if it waits; a running one is ended soon; one that has ended stays as it is."""
        with self.database.change() as connection:
            job = self[id]
            if not job.has_ended:
                state = "cancelled" if job.state == "queued" else job.state
                ended = time.time() if job.state == "queued" else None
                connection.execute(
                    "UPDATE jobs SET cancelled = 1, state = ?, ended = ? WHERE id = ?", (state, ended, id)
                )
                self.database.audit(who, "cancelled", id)
        if self[id].state == "cancelled":
            self.database.remove("uploads", id)
        return self[id]

    def delete(self, id: str, who: str) -> None:  # noqa: A002
        """Remove the upload and result of a job that has ended, and show it no more."""
        with self.database.change() as connection:
            connection.execute("UPDATE jobs SET state = 'deleted' WHERE id = ?", (id,))
            self._forget(connection, [id])
            self.database.audit(who, "deleted", id)
        self._remove_files(id)

    def expire(self, *, keep_s: float, record_s: float) -> int:
        """Remove uploads and results whose time is over, and records that are older still.

        Args:
            keep_s: Seconds after a job's end for which its result is kept.
            record_s: Seconds for which its record is kept.

        Returns:
            Number of results that were removed.
        """
        now = time.time()
        rows = self.database.rows("SELECT id FROM jobs WHERE removed IS NULL AND ended < ?", (now - keep_s,))
        gone = [str(row["id"]) for row in rows]
        for one in gone:
            self._remove_files(one)
        with self.database.change() as connection:
            self._forget(connection, gone)
            connection.execute("DELETE FROM jobs WHERE ended < ? AND removed IS NOT NULL", (now - record_s,))
            connection.execute("DELETE FROM audit WHERE time < ?", (now - record_s,))
        return len(gone)

    @staticmethod
    def _forget(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
        """Keep no UID of jobs whose files are removed."""
        connection.executemany(
            "UPDATE jobs SET removed = ?, settings = json_set(settings, '$.series', ''), "
            "summary = CASE summary WHEN '' THEN '' ELSE json_remove(summary, '$.dicom') END WHERE id = ?",
            [(time.time(), one) for one in ids],
        )

    def _remove_files(self, id: str) -> None:  # noqa: A002
        self.database.remove("uploads", id)
        self.database.remove("results", id)

    def sweep(self) -> None:
        """After a new start: remove what killed processes left: half uploads, half results, temporary files."""
        known = "SELECT id FROM jobs WHERE removed IS NULL AND state"
        done = {str(row["id"]) for row in self.database.rows(f"{known} = 'done'")}
        live = {str(row["id"]) for row in self.database.rows(f"{known} IN ('queued', 'running')")}
        for name, kept in (("uploads", live), ("results", done), ("tmp", set[str]())):
            for entry in (self.database.folder / name).iterdir():
                if entry.name not in kept:
                    self.database.remove(name, entry.name)
