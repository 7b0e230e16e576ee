"""Puts a report into the outbox for each study that failed, where the config asks for it."""

import logging
import tempfile
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


def add_failure_reports(studies: Studies, deliveries: Deliveries) -> int:
    """Make the reports that are still to be made.

    Returns:
        Number of studies.
    """
    rows = studies.database.rows("SELECT id FROM studies WHERE report = 1 AND state = 'failed'")
    for row in rows:
        _add(studies[str(row["id"])], studies, deliveries)
    return len(rows)


def _add(study: Study, studies: Studies, deliveries: Deliveries) -> None:
    database = studies.database
    with tempfile.TemporaryDirectory(dir=database.folder / "tmp", prefix="report-") as scratch:
        file, made = Path(scratch) / "report.dcm", None
        try:
            headers = _headers(studies.folder / study.id)
            made = failure_report(headers, code=study.code, reason=study.reason, content=study.content)
            made.save_as(file, enforce_file_format=True)
        except ReadError:
            _log.error("report", extra={"study": study.id, "code": "headers"})  # the list still shows the failure
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
