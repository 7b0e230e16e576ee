"""The objects that are to be sent: their UIDs and files are fixed before the first try, and none is forgotten."""

import logging
import os
import random
import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

from hilum.files import sync_to_disk
from hilum.serving.app.database import Database
from hilum.serving.dicom_out.identity import derived_uid
from hilum.settings.serving import ServeConfig

_log = logging.getLogger("hilum.serve")

_RANKS = {"segmentation": 0, "map": 1, "page": 2, "report": 3}
"""Order of sending: the report, which refers to the others, is last."""

DELIVERY_STATES = ("waiting", "sent", "dead", "shadow", "superseded")

UNREACHED = "the destination cannot be reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An object that is to be sent.

    Attributes:
        uid: Its SOPInstanceUID; never leaves the data base and the destination.
        study: Id of its study.
        job: Id of the job that made it.
        file: Its file.
        kind: report, segmentation, map or page.
        destination: Name of the destination.
        state: waiting, sent, dead, shadow or superseded.
        tries: How often it was sent, or would have been.
        due: Time of the next try.
        since: Time from which its time to be given up counts.
        reason: Why the last try failed.
        created: When it was made.
        sent: When it was sent.
    """

    uid: str = field(repr=False)
    study: str
    job: str
    file: Path
    kind: str
    destination: str
    state: str
    tries: int
    due: float
    since: float
    reason: str
    created: float
    sent: float | None


class Deliveries:
    """The outbox.

    Args:
        database: The data base.
        config: The settings.
    """

    def __init__(self, database: Database, config: ServeConfig) -> None:
        self.database, self.config = database, config
        self.folder = database.folder / "outbox"

    def destination_of(self, source: str) -> str:
        """Name of the destination of a source's results."""
        named = {one.name: one.destination for one in self.config.web}
        if self.config.node is not None:
            named["node"] = self.config.node.destination
        return named.get(source, "")

    def of(self, *, state: str = "", most: int = 1000, offset: int = 0) -> list[Delivery]:
        """Deliveries, the latest first.

        Args:
            state: In this state alone.
            most: Most of them.
            offset: Number of those that come before and are left out.
        """
        where, values = ("state = ?", [state]) if state else ("1", [])
        query = f"SELECT * FROM objects WHERE {where} ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?"  # noqa: S608
        return [self._delivery(row) for row in self.database.rows(query, [*values, most, offset])]

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of objects by destination and state."""
        rows = self.database.rows("SELECT destination, state, count(*) FROM objects GROUP BY destination, state")
        return {(str(destination), str(state)): int(count) for destination, state, count in rows}

    def _delivery(self, row: sqlite3.Row) -> Delivery:
        values = {name: row[name] for name in row.keys() if name not in ("file", "series", "made")}  # noqa: SIM118
        return Delivery(**values, file=self.folder / row["file"])

    def add(self, source: str, study: str, job: str, files: Mapping[Path, str], *, study_uid: str) -> None:
        """Put the objects of a result into the outbox, in one transaction; those that are there already are left alone.

        Args:
            source: The source of the study, which decides on the destination.
            study: Id of the study.
            job: Id of the job.
            files: SOPInstanceUID of the object in each file.
            study_uid: StudyInstanceUID of the study.
        """
        destination = self.destination_of(source)
        if not destination:
            return  # it is no longer in the config
        wanted = [(kind_of(file.name), file, uid) for file, uid in files.items()]
        with self.database.change():
            for kind, file, uid in sorted(wanted, key=lambda one: _RANKS[one[0]]):
                if kind not in self.config.delivery.objects:
                    continue
                place = _Place(study=study, job=job, destination=destination, kind=kind)
                if kind == "report":
                    self._add_report(place, file, uid, study_uid, kept=set(files.values()))
                else:
                    self._add_object(place, file, uid)

    def _add_object(self, place: "_Place", file: Path, uid: str) -> None:
        """Add an object that is not there yet; one that waits is sent with the new report."""
        with self.database.change() as connection:
            known = connection.execute(
                "SELECT state FROM objects WHERE uid = ? AND destination = ?", (uid, place.destination)
            ).fetchone()
            if known is None or known["state"] in ("shadow", "superseded"):
                self._insert(place, self._linked(file), uid, _series_of(file), made=uid)
            elif known["state"] == "waiting":
                connection.execute(
                    "UPDATE objects SET job = ? WHERE uid = ? AND destination = ?", (place.job, uid, place.destination)
                )

    def _add_report(self, place: "_Place", file: Path, uid: str, study_uid: str, *, kept: set[str]) -> None:
        """Add a report; it names the one before it, unless it is the same."""
        with self.database.change() as connection:
            untried = connection.execute(
                "SELECT uid, made FROM objects WHERE study = ? AND destination = ? AND state = 'waiting' AND tries = 0",
                (place.study, place.destination),
            ).fetchall()
            connection.executemany(  # what an earlier result waits with is not sent any more
                "UPDATE objects SET state = 'superseded' WHERE uid = ? AND destination = ?",
                [(row["uid"], place.destination) for row in untried if row["made"] not in kept],
            )
            earlier = connection.execute(
                "SELECT * FROM objects WHERE study = ? AND destination = ? AND kind = 'report' "
                "AND state IN ('waiting', 'sent', 'dead') ORDER BY rowid DESC LIMIT 1",
                (place.study, place.destination),
            ).fetchone()
            if earlier is None or earlier["made"] == uid:
                self._add_object(place, file, uid if earlier is None else str(earlier["uid"]))
                return
            made = pydicom.dcmread(file)
            known = connection.execute(
                "SELECT 1 FROM objects WHERE uid = ? AND destination = ? AND state IN ('sent', 'waiting', 'dead')",
                (uid, place.destination),
            ).fetchone()
            if known is not None:  # what it says was true once before: it is a new document all the same
                made.SOPInstanceUID = UID(derived_uid("instance again", uid, earlier["uid"]))
                made.SeriesInstanceUID = UID(derived_uid("series again", uid, earlier["uid"]))
                made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
            made.PredecessorDocumentsSequence = _predecessor(earlier, str(made.SOPClassUID), study_uid)
            new = self.folder / f"{secrets.token_hex(16)}.dcm"
            made.save_as(new, enforce_file_format=True)
            self._insert(place, new, str(made.SOPInstanceUID), str(made.SeriesInstanceUID), made=uid)

    def _linked(self, file: Path) -> Path:
        """The file in the outbox, where it stays however long results are kept; a copy on disks without hard links."""
        new = self.folder / f"{secrets.token_hex(16)}.dcm"
        try:
            os.link(file, new)
        except OSError:
            shutil.copyfile(file, new)
        return new

    def _insert(self, place: "_Place", file: Path, uid: str, series: str, *, made: str) -> None:
        now, state = time.time(), "shadow" if self.config.shadow else "waiting"
        if self.config.shadow:
            file.unlink()
        else:
            sync_to_disk(file)
            sync_to_disk(self.folder)
        with self.database.change() as connection:
            connection.execute(
                "DELETE FROM objects WHERE uid = ? AND destination = ? AND state IN ('shadow', 'superseded')",
                (uid, place.destination),
            )
            connection.execute(
                "INSERT OR IGNORE INTO objects "
                "(uid, made, series, study, job, file, kind, destination, state, due, since, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    uid, made, series, place.study, place.job, file.name, place.kind, place.destination, state,
                    now, now, now,
                ),
            )  # fmt: skip

    def is_own(self, uid: str) -> bool:
        """Whether an instance is an own result."""
        return bool(self.database.rows("SELECT 1 FROM objects WHERE uid = ? LIMIT 1", (uid,)))

    def due(self, destination: str) -> list[Delivery]:
        """The objects of the result that is due first, in the order in which they are sent; empty: none is due."""
        now = time.time()
        first = self.database.rows(
            "SELECT study, job FROM objects WHERE destination = ? AND state = 'waiting' AND due <= ? "
            "ORDER BY created LIMIT 1",
            (destination, now),
        )
        if not first:
            return []
        rows = self.database.rows(
            "SELECT * FROM objects WHERE destination = ? AND study = ? AND job = ? AND state = 'waiting'",
            (destination, first[0]["study"], first[0]["job"]),
        )
        return sorted(map(self._delivery, rows), key=lambda one: _RANKS[one.kind])

    def begin(self, batch: list[Delivery]) -> None:
        """Note, before a try, that there is one: after a crash nobody knows whether it arrived."""
        with self.database.change() as connection:
            connection.executemany(
                "UPDATE objects SET tries = tries + 1 WHERE uid = ? AND destination = ?",
                [(one.uid, one.destination) for one in batch],
            )

    def sent(self, one: Delivery) -> None:
        """Note that an object is there, and remove its file."""
        with self.database.change() as connection:
            connection.execute(
                "UPDATE objects SET state = 'sent', reason = '', sent = ? WHERE uid = ? AND destination = ?",
                (time.time(), one.uid, one.destination),
            )
        self.database.remove("outbox", one.file.name)
        self._log(one, "sent", "")

    def failed(self, one: Delivery, reason: str, *, is_final: bool = False) -> None:
        """Note that a try failed: the object waits for the next one, or is dead.

        Args:
            one: The object, as it was before the try.
            reason: Why, without names, UIDs and addresses.
            is_final: Whether no later try can help.
        """
        settings, now = self.config.delivery, time.time()
        is_dead = is_final or now - one.since > settings.give_up_hours * 3600
        wait = back_off(one.tries + 1, settings.first_retry_s, settings.longest_retry_s)
        with self.database.change() as connection:
            connection.execute(
                "UPDATE objects SET state = ?, reason = ?, due = ? WHERE uid = ? AND destination = ?",
                ("dead" if is_dead else "waiting", reason, now + wait, one.uid, one.destination),
            )
        self._log(one, "dead" if is_dead else "waiting", reason)

    @staticmethod
    def _log(one: Delivery, state: str, reason: str) -> None:
        extra = {"study": one.study, "job": one.job, "kind": one.kind, "to": one.destination, "state": state}
        _log.log(logging.WARNING if reason else logging.INFO, "delivery", extra={**extra, "code": reason})

    def reached(self, destination: str) -> None:
        """The destination is there again: what waited for it is due now."""
        with self.database.change() as connection:
            connection.execute(
                "UPDATE objects SET due = ? WHERE destination = ? AND state = 'waiting' AND due > ? "
                "AND reason NOT LIKE 'refused%'",
                (time.time(), destination, time.time()),
            )

    def send_again(self, study: str, who: str) -> int:
        """Queue the dead objects of a study again.

        Returns:
            Their number.
        """
        now = time.time()
        with self.database.change() as connection:
            changed = connection.execute(
                "UPDATE objects SET state = 'waiting', due = ?, since = ? WHERE study = ? AND state = 'dead'",
                (now, now, study),
            ).rowcount
            self.database.audit(who, "sent again", study)
        return int(changed)

    def recover(self) -> None:
        """After a new start: remove files that no object needs."""
        with self.database.change() as connection:  # while no result comes in, whose files are there before its rows
            rows = connection.execute("SELECT file FROM objects WHERE state IN ('waiting', 'dead')").fetchall()
            needed = {str(row["file"]) for row in rows}
            for entry in self.folder.iterdir():
                if entry.name not in needed:
                    self.database.remove("outbox", entry.name)

    def expire(self) -> None:
        """Remove files that are no longer needed, and the record of objects that are older than ``keep_days``."""
        before = time.time() - self.config.keep_days * 86400
        with self.database.change() as connection:
            connection.execute("DELETE FROM objects WHERE state != 'waiting' AND created < ?", (before,))
        self.recover()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Whose object it is, where it goes, and what it is."""

    study: str
    job: str
    destination: str
    kind: Literal["report", "segmentation", "map", "page"]


def back_off(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait after so many failures: doubled each time, up to the longest, and up to a quarter less or more.

    Args:
        failures: At least 1.
        first_s: The first wait.
        longest_s: The longest wait.
    """
    wait = min(longest_s, first_s * 2.0 ** min(max(failures, 1) - 1, 60))
    return wait * random.uniform(0.75, 1.25)  # noqa: S311


def kind_of(name: str) -> Literal["report", "segmentation", "map", "page"]:
    """What an object is, by the name of its file, such as map-2.dcm."""
    kind: Any = name.removesuffix(".dcm").split("-")[0]
    return kind if kind in _RANKS else "page"


def _series_of(file: Path) -> str:
    """SeriesInstanceUID of an object, whose frames are not read."""
    with file.open("rb") as opened:
        head = pydicom.filereader.read_partial(opened, stop_when=lambda tag, *_: tag > 0x0020000E)
    return str(head.SeriesInstanceUID)


def _predecessor(earlier: sqlite3.Row, sop_class: str, study_uid: str) -> Items:
    """The report that a new one replaces (PS3.3 C.17.2)."""
    document, series, study = Dataset(), Dataset(), Dataset()
    document.ReferencedSOPClassUID, document.ReferencedSOPInstanceUID = UID(sop_class), UID(earlier["uid"])
    series.SeriesInstanceUID, series.ReferencedSOPSequence = UID(earlier["series"]), Items([document])
    study.StudyInstanceUID, study.ReferencedSeriesSequence = UID(study_uid), Items([series])
    return Items([study])
