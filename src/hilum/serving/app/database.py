"""The service's data base: one SQLite file that only its owner can read, and the folder around it."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hilum.errors import ConfigError
from hilum.files import sync_to_disk

DATABASE = "service.sqlite"
_FORMAT = 1
_LOCK = ".lock"
FOLDERS = ("uploads", "results", "pacs", "outbox", "tmp")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    state TEXT NOT NULL,             -- queued, running, done, failed, cancelled, deleted
    model TEXT NOT NULL,
    settings TEXT NOT NULL,          -- JSON of JobSettings
    origin TEXT NOT NULL,            -- upload, or the name of a PACS
    study TEXT NOT NULL DEFAULT '',  -- id of the study, where it comes from a PACS
    num_bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,       -- whose process crashed or hung
    interruptions INTEGER NOT NULL DEFAULT 0,  -- by ends of the whole service
    cancelled INTEGER NOT NULL DEFAULT 0,
    code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '',          -- JSON of what the monitor counts
    created REAL NOT NULL, started REAL, ended REAL, removed REAL
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_study ON jobs (study);
CREATE TABLE IF NOT EXISTS studies (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL,            -- node, or the name of a web source
    uid TEXT NOT NULL,               -- StudyInstanceUID: by it an operator finds the study
    state TEXT NOT NULL,             -- receiving, waiting, predicted, ignored, failed
    result TEXT NOT NULL DEFAULT '', -- how it ended last: predicted, ignored, failed
    code TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    content TEXT NOT NULL DEFAULT '',-- digests of the instances that it had then
    seen TEXT NOT NULL DEFAULT '',   -- of a web source: digest of what a search said of it last
    fetched TEXT NOT NULL DEFAULT '',-- of a web source: digest of its series when they were fetched
    job TEXT NOT NULL DEFAULT '',
    num_bytes INTEGER NOT NULL DEFAULT 0,  -- of its files here; 0: they were removed
    too_large INTEGER NOT NULL DEFAULT 0,  -- whether instances of it were refused for its size
    report INTEGER NOT NULL DEFAULT 0,     -- whether a report that it failed is still to be made
    changed REAL NOT NULL, created REAL NOT NULL,
    UNIQUE (source, uid)
);
CREATE INDEX IF NOT EXISTS studies_by_state ON studies (state);
CREATE TABLE IF NOT EXISTS objects (
    uid TEXT NOT NULL,               -- SOPInstanceUID of an own result
    made TEXT NOT NULL,              -- the one that its job gave it; another, if the same report was sent before
    series TEXT NOT NULL,
    study TEXT NOT NULL,             -- id of the study
    job TEXT NOT NULL,
    file TEXT NOT NULL,              -- in outbox/; removed after it is sent or its time is over
    kind TEXT NOT NULL,              -- report, segmentation, map, page
    destination TEXT NOT NULL,
    state TEXT NOT NULL,             -- waiting, sent, dead, shadow, superseded
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL,               -- time of the next try
    since REAL NOT NULL,             -- time from which its time to be given up counts
    reason TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, sent REAL,
    PRIMARY KEY (uid, destination)
);
CREATE INDEX IF NOT EXISTS objects_by_study ON objects (study);
CREATE INDEX IF NOT EXISTS objects_by_state ON objects (state, due);
CREATE TABLE IF NOT EXISTS models (
    digest TEXT PRIMARY KEY, reference TEXT NOT NULL  -- JSON of TrainingReference
);
CREATE TABLE IF NOT EXISTS audit (
    time REAL NOT NULL, who TEXT NOT NULL, did TEXT NOT NULL, what TEXT NOT NULL
);
"""


class Database:
    """One connection that threads share; each transaction is on disk when it ends.

    Args:
        folder: The data folder; made, for its owner alone.

    Attributes:
        folder: The data folder: the data base, ``uploads/``, ``results/``, ``pacs/``, ``outbox/`` and ``tmp/``.
        revision: Grows with each change, for those who wait for one.

    Raises:
        ConfigError: If another service uses the folder, or it cannot be written or read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.revision = folder, 0
        self._lock, self._writer = threading.RLock(), 0
        self._readers: list[sqlite3.Connection] = []  # that nobody uses now: a writer keeps no reader waiting
        try:
            self._take(folder)
        except OSError as exc:
            msg = f"the data folder {folder} cannot be written: {exc.strerror}"
            raise ConfigError(msg, hint="--data names another") from exc
        try:
            self._connection = opened_database(folder / DATABASE)
            version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
            if version > _FORMAT:
                msg = f"the data base must be of format {_FORMAT} or older, is of {version}: made by a newer Hilum"
                raise ConfigError(msg, path=folder / DATABASE)
            self._connection.executescript(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
        except sqlite3.Error as exc:
            msg = f"is no data base of this service, is damaged, or in use by another program: {exc}"
            raise ConfigError(msg, path=folder / DATABASE) from exc

    def _take(self, folder: Path) -> None:
        """Make the folder, or take one that an earlier service made; what lies in another is not touched."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = [entry.name for entry in folder.iterdir() if entry.name != _LOCK]
        if held and not (folder / DATABASE).is_file():
            msg = f"the data folder must be new, empty or of an earlier service, {folder} holds {sorted(held)[0]}"
            raise ConfigError(msg, hint="--data names another")
        self._held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._held)
            msg = f"the data folder must be used by one service, another uses {folder}"
            raise ConfigError(msg, hint="--data names another") from exc
        folder.chmod(0o700)
        os.close(os.open(folder / DATABASE, os.O_RDWR | os.O_CREAT, 0o600))
        for name in FOLDERS:
            (folder / name).mkdir(exist_ok=True, mode=0o700)

    def close(self) -> None:
        """Close the data base, and let another service use the folder."""
        with self._lock:
            for one in (self._connection, *self._readers):
                one.close()
            os.close(self._held)

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of its changes are on disk at its end, or none if something is raised."""
        with self._lock:
            if self._writer:  # within another one of this thread
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._writer = threading.get_ident()
            try:
                yield self._connection
                self._connection.execute("COMMIT")
                self.revision += 1
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._writer = 0

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows that a query finds; within a transaction with its own changes."""
        if self._writer == threading.get_ident():
            return self._connection.execute(query, values).fetchall()
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = opened_database(self.folder / DATABASE, writing=False)
        try:
            return reader.execute(query, values).fetchall()
        finally:
            self._readers.append(reader)

    def audit(self, who: str, did: str, what: str) -> None:
        """Write down who did what."""
        with self.change() as connection:
            connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?)", (time.time(), who, did, what))

    def remove(self, *parts: str) -> None:
        """Remove a file or folder below the data folder, if it is there."""
        path = self.folder.joinpath(*parts)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def opened_database(file: Path, *, writing: bool = True) -> sqlite3.Connection:
    """A connection to a data base of the service; writers wait for each other, readers for nobody."""
    mode = "rw" if writing else "ro"
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=30
    )
    connection.row_factory = sqlite3.Row
    if writing:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    return connection


def sync_folder(folder: Path) -> None:
    """See to it that a folder with its files is on disk."""
    for file in folder.iterdir():
        sync_to_disk(file)
    sync_to_disk(folder)
