"""Puts a report into the outbox for each study that failed, where the config asks for it."""

import logging
import sqlite3
import tempfile
import time
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from hilum.errors import ReadError
from hilum.serving.dicom_out.failure_report import failure_report
from hilum.serving.pacs.deliveries import Deliveries
from hilum.serving.pacs.instance import read_instance
from hilum.serving.pacs.studies import Studies, Study

_log = logging.getLogger("hilum.serve")


_LATER_S = 60.0
"""Time after which a report is tried again that a full disk or a locked data base kept from being made."""


def add_failure_reports(studies: Studies, deliveries: Deliveries, later: dict[str, float]) -> int:
    """Make the reports that are still to be made; one that cannot be made keeps no other from it.

    Args:
        studies: The studies.
        deliveries: Where the reports go.
        later: When to try again, by the id of a study; kept by the caller between two calls.

    Returns:
        Number of studies.
    """
    rows = studies.database.rows("SELECT id FROM studies WHERE report = 1 AND state = 'failed'")
    ids = {str(row["id"]) for row in rows}
    for gone in later.keys() - ids:
        del later[gone]
    due = [one for one in ids if time.monotonic() >= later.get(one, 0.0)]
    for one in due:
        try:
            _add(studies[one], studies, deliveries)
        except Exception as exc:  # noqa: BLE001  # a full disk, or a data base that is locked: later again
            later[one] = time.monotonic() + _LATER_S
            _log.error("report", extra={"study": one, "code": type(exc).__name__})
    return len(due)


def _add(study: Study, studies: Studies, deliveries: Deliveries) -> None:
    database = studies.database
    with tempfile.TemporaryDirectory(dir=database.folder / "tmp", prefix="report-") as scratch:
        file, made = Path(scratch) / "report.dcm", None
        try:
            headers = _headers(studies.folder / study.id)
            made = failure_report(headers, code=study.code, reason=study.reason, content=study.content)
            made.save_as(file, enforce_file_format=True)
        except (OSError, sqlite3.Error):
            raise
        except Exception as exc:  # noqa: BLE001  # the list still shows the failure
            code = "headers" if isinstance(exc, ReadError) else type(exc).__name__
            _log.error("report", extra={"study": study.id, "code": code})
            made = None
        with database.change() as connection:
            if made is not None:
                uid = str(made.SOPInstanceUID)
                deliveries.add(study.source, study.id, study.job, {file: uid}, study_uid=study.uid)
            connection.execute("UPDATE studies SET report = 0 WHERE id = ?", (study.id,))


def _headers(folder: Path) -> list[Dataset]:
    """Headers of the images of a study that can be read.

    Raises:
        ReadError: If none can.
    """
    found = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            read_instance(file)
            found.append(pydicom.dcmread(file, stop_before_pixels=True))
        except (ReadError, OSError, InvalidDicomError, ValueError, NotImplementedError):
            continue
    if not found:
        msg = "none of its files has a header that can be read"
        raise ReadError(msg)
    return found
