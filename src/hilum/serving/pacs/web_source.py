"""A PACS that is asked over DICOMweb: its studies are found by QIDO-RS or told by a webhook, and fetched by WADO-RS."""

import hashlib
import json
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from hilum.errors import HilumError, ReadError
from hilum.reading.identity import hashed
from hilum.serving.app.jobs import QueueFullError
from hilum.serving.pacs.deliveries import back_off
from hilum.serving.pacs.destination import UnreachableError
from hilum.serving.pacs.instance import SOURCE_CLASSES, InstanceHeader, is_uid, read_instance
from hilum.serving.pacs.rules import model_for
from hilum.serving.pacs.studies import Studies, Study, instance_file
from hilum.serving.pacs.web_session import TooLargeError, reaching, web_client
from hilum.settings.serving import WebSourceConfig

_log = logging.getLogger("hilum.serve")

_TICK_S, _LOOK_S = 0.25, 5.0
"""How often there is something to do, and the longest time between two looks at a study that may be complete."""

_PAGE, _MOST_ROWS = 200, 100_000
_ALL = 1_000_000
_FIRST_BACK_OFF_S, _BACK_OFF_S = 2.0, 120.0
_AS_STORED = (("application/dicom", "*"),)
_CLASS, _INSTANCE, _MODALITY, _STUDY, _SERIES = "00080016", "00080018", "00080060", "0020000D", "0020000E"
_NUM_IN_SERIES, _NUM_IN_STUDY, _NUM_SERIES = "00201209", "00201208", "00201206"
_WHO = ("00100010", "00100020", "00100030", "00100040", "00080050", "00081030", "00080020")
"""Patient and study: where one changes, objects of an earlier result name the wrong patient."""


@dataclass(slots=True, kw_only=True)
class _Look:
    """What was seen last of a study that may be complete.

    Attributes:
        digest: Digest of its series.
        since: When that was seen first, by the monotonic clock.
        due: When to look again.
        failures: How often it could not be fetched.
        fetched: Digest of its series when its files were fetched.
    """

    digest: str = ""
    since: float = 0.0
    due: float = 0.0
    failures: int = 0
    fetched: str = ""


class WebSource:
    """Finds and fetches the studies of one PACS.

    Args:
        config: The source.
        studies: Where studies go.

    Raises:
        ConfigError: If its token cannot be read.
    """

    def __init__(self, config: WebSourceConfig, studies: Studies) -> None:
        self._config, self._studies = config, studies
        most = int(studies.config.limits.unpacked_gb * 1e9)
        self._client = web_client(config, most_bytes=most)
        self._most = most
        self._looks: dict[str, _Look] = {}
        self._odd: dict[str, float] = {}  # when to look again at studies that a search found and that cannot be read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source-{config.name}", daemon=True)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Stop at the latest after so many seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        next_search, failures = 0.0, 0
        while not self._stop.wait(_TICK_S):
            try:
                if self._config.poll_s and time.monotonic() >= next_search:
                    self._search()
                    next_search = time.monotonic() + self._config.poll_s
                self._look_at_all()
                failures = 0
            except UnreachableError as exc:
                failures += 1
                _log.warning("source", extra={"of": self._config.name, "code": str(exc) or "away"})
                self._stop.wait(back_off(failures, _FIRST_BACK_OFF_S, _BACK_OFF_S))
            except Exception as exc:  # noqa: BLE001  # a bug, or a full disk: later again
                failures += 1
                _log.error("bug", extra={"of": self._config.name, "code": type(exc).__name__})
                self._stop.wait(back_off(failures, _FIRST_BACK_OFF_S, _BACK_OFF_S))

    def _search(self) -> None:
        """Find new studies, and those of which something changed."""
        filters = {"ModalitiesInStudy": "CT"}
        if self._config.days:
            filters["StudyDate"] = f"{date.today() - timedelta(days=self._config.days):%Y%m%d}-"
        now = time.monotonic()
        self._odd = {uid: until for uid, until in self._odd.items() if until > now}
        fields = ["NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries"]
        search = partial(self._client.search_for_studies, search_filters=filters, fields=fields)
        for uid, row in _found(search, _STUDY):
            if self._stop.is_set():
                return
            if uid in self._odd:
                continue
            try:
                self._notice(uid, row)
            except Exception as exc:
                if (isinstance(exc, UnreachableError) and not exc.code) or isinstance(exc, sqlite3.Error):
                    raise
                self._odd[uid] = time.monotonic() + _BACK_OFF_S
                code = getattr(exc, "code", None) or type(exc).__name__
                _log.warning("source", extra={"of": self._config.name, "code": code, "study": hashed("study", uid)})

    def _notice(self, uid: str, row: Mapping[str, Any]) -> None:
        """Receive a study if it is new, or its series are no longer those that were fetched."""
        seen = _digest({tag: row.get(tag, {}).get("Value") for tag in (*_WHO, _NUM_IN_STUDY, _NUM_SERIES)})
        study = self._studies.find(self._config.name, uid)
        if study is not None and (study.state == "receiving" or (study.seen == seen and _NUM_IN_STUDY in row)):
            return
        if study is not None and study.state == "failed" and not study.fetched and study.seen == seen:
            return  # it was given up
        if study is not None and study.fetched:
            digest, _ = self._series_of(uid)
            if digest == study.fetched:
                self._studies.note_seen(study, seen)
                return
        self._studies.expect(self._config.name, uid, seen=seen)

    def _look_at_all(self) -> None:
        """Look at the studies that may be complete."""
        waiting = self._studies.of(self._config.name, state="receiving", most=_ALL)
        for gone in set(self._looks) - {study.id for study in waiting}:
            del self._looks[gone]
        for study in reversed(waiting):
            look = self._looks.setdefault(study.id, _Look())
            if time.monotonic() < look.due or self._stop.is_set():
                continue
            try:
                self._look_at(study, look)
            except Exception as exc:
                is_away = isinstance(exc, UnreachableError) and not exc.code
                if is_away or self._stop.is_set() or isinstance(exc, sqlite3.Error):
                    raise
                self._failed(study, look, *_why(exc))  # the others go on

    def _failed(self, study: Study, look: _Look, code: str, reason: str) -> None:
        """Look at a study again later, but not for ever."""
        look.failures += 1
        look.due = time.monotonic() + back_off(look.failures, _FIRST_BACK_OFF_S, _BACK_OFF_S)
        is_late = time.time() - study.changed > self._studies.config.delivery.give_up_hours * 3600
        if is_late or code == "too-large":
            self._studies.fail(study, code, reason)
        else:
            self._studies.note_trouble(study, code, reason)

    def _look_at(self, study: Study, look: _Look) -> None:
        """Look at the series of a study; fetch them if they have not changed for long enough."""
        stable = self._config.stable_s
        look.due = time.monotonic() + min(_LOOK_S, stable / 3)
        digest, series = self._series_of(study.uid)
        if digest != look.digest:
            look.digest, look.since = digest, time.monotonic()
        if digest == study.fetched and (study.result or self._studies.is_working(study)):
            self._studies.restore(study)
        elif self._studies.is_working(study):
            return
        elif time.monotonic() - look.since >= stable:
            if look.fetched != digest:
                is_wanted = self._fetch(study, series)
                look.fetched = digest if is_wanted else ""
            try:
                self._studies.settle(study, fetched=digest)
            except QueueFullError:
                look.due = time.monotonic() + _LOOK_S

    def _series_of(self, uid: str) -> tuple[str, dict[str, int]]:
        """Digest of the patient and of the CT series of a study, and the number of instances of each."""
        with reaching():
            found = self._client.search_for_studies(search_filters={"StudyInstanceUID": uid})
            rows = self._client.search_for_series(
                uid, search_filters={"Modality": "CT"}, fields=["NumberOfSeriesRelatedInstances"]
            )
            series = {
                _text(row, _SERIES): self._num_instances(uid, row) for row in rows if _text(row, _MODALITY) == "CT"
            }
            who = {tag: found[0].get(tag, {}).get("Value") for tag in _WHO} if found else {}
        return _digest([who, sorted(series.items())]), {one: n for one, n in series.items() if is_uid(one)}

    def _num_instances(self, uid: str, row: Mapping[str, Any]) -> int:
        number = _text(row, _NUM_IN_SERIES)
        if number.isdigit():
            return int(number)
        found = _found(partial(self._client.search_for_instances, uid, _text(row, _SERIES)), _INSTANCE)
        return sum(1 for _ in found)

    def _fetch(self, study: Study, series: Mapping[str, int]) -> bool:
        """Fetch the series of a study, if a rule fits one of them.

        Returns:
            Whether one does; else the study has one file of each series.
        """
        folder = self._studies.database.folder / "tmp" / f"fetch-{study.id}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            headers = [header for one in series for header in self._first_of(study.uid, one, folder)]
            is_wanted = model_for(headers, self._studies.config.rules) is not None
            if is_wanted:
                self._fetch_all(study.uid, series, folder)
            self._studies.replace_files(study, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return is_wanted

    def _first_of(self, uid: str, series: str, folder: Path) -> Iterator[InstanceHeader]:
        """The header of one image of CT of a series, which may hold others, such as a dose report."""
        found = _found(partial(self._client.search_for_instances, uid, series), _INSTANCE)
        one = next((one for one, row in found if _text(row, _CLASS) in ("", *SOURCE_CLASSES)), None)
        if one is None:
            return
        with reaching():
            made = self._client.retrieve_instance(uid, series, one, media_types=_AS_STORED)
        header = _written(made, folder)
        if header is not None and header.study == uid:
            yield header

    def _fetch_all(self, uid: str, series: Mapping[str, int], folder: Path) -> None:
        left = self._most
        for one, number in series.items():
            count = 0  # of all, those that are no images of CT among them
            with reaching():
                sent = self._client.iter_series(uid, one, media_types=_AS_STORED)
            for made in _each(sent):
                if self._stop.is_set():
                    raise UnreachableError
                count += 1
                header = _written(made, folder)
                if header is None or header.study != uid:
                    continue
                left -= (folder / instance_file(header.instance)).stat().st_size
                self._check_room(left, folder)
            if count < number:
                msg = f"{number - count} of {number} instances of a series were not sent"
                raise UnreachableError(msg, code="incomplete")

    def _check_room(self, left: int, folder: Path) -> None:
        if left < 0:
            raise TooLargeError
        if shutil.disk_usage(folder).free < self._studies.config.limits.free_gb * 1e9:
            msg = "the disk is full"
            raise HilumError(msg, code="disk")


def _written(made: Dataset, folder: Path) -> InstanceHeader | None:
    """Write an instance to a folder; None if it is no CT that could be predicted."""
    new = folder / ".new"
    try:
        made.save_as(new, enforce_file_format=True)
    except OSError:
        raise
    except Exception as exc:  # it is no DICOM, or is damaged
        msg = "an instance cannot be written"
        raise HilumError(msg, code="answer") from exc
    try:
        header = read_instance(new)
    except ReadError:
        header = None
    if header is None or not header.is_source:
        new.unlink()
        return None
    new.chmod(0o600)
    new.rename(folder / instance_file(header.instance))
    return header


def _found(search: Callable[..., Any], tag: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a search by their UIDs, page after page, without those that cannot be read.

    Args:
        search: Takes ``limit`` and ``offset``.
        tag: Of the UID.

    Raises:
        UnreachableError: If the other side cannot be reached or understood.
    """
    known: set[str] = set()
    rows: list[Any] = []
    offset = 0
    while offset < _MOST_ROWS:
        with reaching():
            before, rows = rows, list(search(limit=_PAGE, offset=offset))
        if not rows or rows == before:  # the end, or it takes no notice of offset; a short page may be its own limit
            return
        offset += len(rows)
        for row in rows:
            try:
                uid = _text(row, tag) if isinstance(row, dict) else ""
            except (AttributeError, TypeError, KeyError, IndexError):
                continue
            if is_uid(uid) and uid not in known:
                known.add(uid)
                yield uid, row


def _each(sent: Iterator[Dataset]) -> Iterator[Dataset]:
    """What the other side sends, one after the other; whatever fails about it is an ``UnreachableError``."""
    while True:
        with reaching():
            made = next(sent, None)
        if made is None:
            return
        yield made


def _why(exc: Exception) -> tuple[str, str]:
    """Code and reason of a study that could not be fetched."""
    if isinstance(exc, TooLargeError):
        return "too-large", "it is larger than limits.unpacked_gb"
    if isinstance(exc, HilumError):
        return ("fetch" if isinstance(exc, UnreachableError) else exc.code or "fetch"), str(exc)
    if isinstance(exc, OSError):
        return "disk", "its files cannot be written"
    return "fault", f"a fault in Hilum: {type(exc).__name__}"


def _text(row: Mapping[str, Any], tag: str) -> str:
    """The first value of an element in DICOM JSON; empty where there is none."""
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
