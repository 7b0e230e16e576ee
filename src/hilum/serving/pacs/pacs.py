"""Holds the node, the web sources and the outboxes of a service, and decides on studies that are complete."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hilum.errors import HilumError
from hilum.reading.identity import hashed
from hilum.serving.app.database import Database
from hilum.serving.app.jobs import Job, Jobs, QueueFullError
from hilum.serving.pacs.deliveries import Deliveries
from hilum.serving.pacs.failure import add_failure_reports
from hilum.serving.pacs.instance import is_uid
from hilum.serving.pacs.libraries import needed, quiet_libraries
from hilum.serving.pacs.outbox import Outbox
from hilum.serving.pacs.studies import NODE, Studies
from hilum.settings.serving import DestinationConfig, ServeConfig

if TYPE_CHECKING:
    from hilum.serving.pacs.web_source import WebSource

_log = logging.getLogger("hilum.serve")

_TICK_S, _RECONCILE_S, _EXPIRE_S, _FAULT_S = 0.25, 5.0, 300.0, 1.0
_ALL = 1_000_000
_MOST_LINES = 500
_FULL_S = 5.0
"""Time after which a study that found the queue full, or could not be read, is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyLine:
    """A study in a list: without UIDs, names, ids and dates of the patient.

    Attributes:
        id: Random; by it an operator finds the UID in the data base.
        study: Hash of its StudyInstanceUID, as in ``hilum cohort``.
        source: ``node``, or the name of a web source.
        state: receiving, waiting, predicted, ignored or failed.
        result: How it ended last; empty: it never did.
        code: Code of its failure, or of why it was ignored.
        reason: The same in words.
        job: Id of its latest job.
        num_bytes: Size of its files here.
        changed: When its state last changed; seconds since 1970.
        created: When it was first seen.
    """

    id: str
    study: str
    source: str
    state: str
    result: str
    code: str
    reason: str
    job: str
    num_bytes: int
    changed: float
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLine:
    """An object of a result in a list, without its UIDs.

    Attributes:
        study: Id of its study.
        job: Id of the job that made it.
        object: Hash of its SOPInstanceUID.
        kind: report, segmentation, map or page.
        destination: Name of the destination.
        state: waiting, sent, dead, shadow or superseded.
        tries: How often it was tried to send it.
        due: Time of the next try.
        reason: Why the last try failed.
        created: When it was made.
        sent: When it was sent.
    """

    study: str
    job: str
    object: str
    kind: str
    destination: str
    state: str
    tries: int
    due: float
    reason: str
    created: float
    sent: float | None


class Pacs:
    """All that is between the queue and the PACS.

    Args:
        database: The data base.
        jobs: The queue.
        config: The settings.
        wake: Called when there may be a new job.

    Raises:
        ConfigError: If a package is missing, or a setting cannot be used.
    """

    def __init__(self, database: Database, jobs: Jobs, config: ServeConfig, wake: Callable[[], None]) -> None:
        self.config, self._database = config, database
        self._deliveries = Deliveries(database, config)
        self._studies = Studies(database, jobs, self._deliveries, config, wake)
        quiet_libraries()
        self._node = None
        if config.node is not None:
            with needed("pynetdicom"):
                from hilum.serving.pacs.node import Node

            self._node = Node(config.node, self._studies)
        self._sources: dict[str, "WebSource"] = {}
        if config.web:
            with needed("dicomweb-client"):
                from hilum.serving.pacs.web_source import WebSource

            self._sources = {one.name: WebSource(one, self._studies) for one in config.web}
        self._outboxes: list[Outbox] = [self._outbox(one) for one in config.destinations]
        self._later: dict[str, float] = {}
        self._later_reports: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pacs", daemon=True)

    def _outbox(self, config: DestinationConfig) -> Outbox:
        if config.kind == "dicom":
            with needed("pynetdicom"):
                from hilum.serving.pacs.store_scu import StoreScu

            node = self.config.node
            destination = StoreScu(config, node.ae_title if node is not None else "HILUM")
            return Outbox(config.name, destination, self._deliveries, self._uid)
        with needed("dicomweb-client"):
            from hilum.serving.pacs.stow import Stow

        return Outbox(config.name, Stow(config), self._deliveries, self._uid)

    def _uid(self, study: str) -> str:
        return self._studies[study].uid

    def start(self) -> None:
        """Take up what an earlier process left, listen, look and send.

        Raises:
            ConfigError: If the node cannot listen.
        """
        self._studies.recover()
        self._deliveries.recover()
        if self._node is not None:
            self._node.start()
        for source in self._sources.values():
            source.start()
        for outbox in self._outboxes:
            outbox.start()
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Stop in order: what was received, and what is to be sent, waits for the next start."""
        self._stop.set()
        if self._node is not None:
            self._node.stop()
        for source in self._sources.values():
            source.stop(seconds)
        for outbox in self._outboxes:
            outbox.stop(seconds)
        if self._thread.is_alive():
            self._thread.join(seconds)

    def on_end(self, job: Job) -> None:
        """Write down what follows from the end of a job; for ``Engine``, within one transaction with it.

        The objects of a result get their places in the outbox, so that they and their UIDs are on disk before they are
        sent for the first time.
        """
        if job.study:
            self._studies.on_end(job)
            self._wake_outboxes()

    def _wake_outboxes(self) -> None:
        for outbox in self._outboxes:
            outbox.wake()

    def tell(self, source: str, study_uid: str) -> None:
        """Take note of a study of a web source that may be new or changed.

        Args:
            source: Name of the source.
            study_uid: Its StudyInstanceUID.

        Raises:
            KeyError: If no web source has this name.
            HilumError: If the UID is none.
            QueueFullError: If as many studies are being received as jobs may wait.
        """
        if source not in self._sources:
            raise KeyError(source)
        if not is_uid(study_uid):
            msg = "study_uid must be a UID"
            raise HilumError(msg, code="uid")
        if self._studies.counts().get("receiving", 0) >= self.config.limits.queue:
            msg = f"at most {self.config.limits.queue} studies may be received at a time"
            raise QueueFullError(msg)
        self._studies.expect(source, study_uid)

    def studies(self, state: str = "", *, most: int = 100, offset: int = 0) -> list[StudyLine]:
        """The latest studies.

        Args:
            state: In this state alone, one of ``STUDY_STATES``; empty: in any.
            most: Most of them; at most 500.
            offset: Number of later ones that are left out.
        """
        return [
            StudyLine(
                id=one.id, study=hashed("study", one.uid), source=one.source, state=one.state, result=one.result,
                code=one.code, reason=one.reason, job=one.job, num_bytes=one.num_bytes, changed=one.changed,
                created=one.created,
            )
            for one in self._studies.of(state=state, most=min(most, _MOST_LINES), offset=offset)
        ]  # fmt: skip

    def deliveries(self, state: str = "", *, most: int = 100, offset: int = 0) -> list[DeliveryLine]:
        """The latest objects of results.

        Args:
            state: In this state alone, one of ``DELIVERY_STATES``; empty: in any.
            most: Most of them; at most 500.
            offset: Number of later ones that are left out.
        """
        return [
            DeliveryLine(
                study=one.study, job=one.job, object=hashed("object", one.uid), kind=one.kind,
                destination=one.destination, state=one.state, tries=one.tries, due=one.due, reason=one.reason,
                created=one.created, sent=one.sent,
            )
            for one in self._deliveries.of(state=state, most=min(most, _MOST_LINES), offset=offset)
        ]  # fmt: skip

    def counts(self) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        """Number of studies by state, and of objects by destination and state."""
        return self._studies.counts(), self._deliveries.counts()

    def send_again(self, study: str, who: str) -> int:
        """Queue the dead objects of a study to be sent once more.

        Args:
            study: Id of the study.
            who: Who wants it, for the audit log.

        Returns:
            Number of objects.

        Raises:
            KeyError: If there is no such study.
        """
        known = self._studies[study]
        number = self._deliveries.send_again(known.id, who)
        self._wake_outboxes()
        return number

    def predict_again(self, study: str, who: str) -> None:
        """Begin a study that has ended anew, so that it is predicted once more.

        Args:
            study: Id of the study.
            who: Who wants it, for the audit log.

        Raises:
            KeyError: If there is no such study.
            HilumError: If it has not ended, or its files are no longer here.
        """
        self._studies.again(study)
        self._database.audit(who, "predicted again", study)

    def _run(self) -> None:
        every = {
            self._settle_all: 0.0, self._report_failures: 0.0,
            self._studies.reconcile: _RECONCILE_S, self._expire: _EXPIRE_S,
        }  # fmt: skip
        due = dict.fromkeys(every, 0.0)
        while not self._stop.wait(_TICK_S):
            for task, seconds in every.items():
                if time.monotonic() < due[task]:
                    continue
                try:
                    task()
                    due[task] = time.monotonic() + seconds
                except Exception as exc:  # noqa: BLE001  # a bug, or a full disk: later again; the others go on
                    _log.error("bug", extra={"of": "pacs", "code": type(exc).__name__})
                    due[task] = time.monotonic() + max(seconds, _FAULT_S)

    def _settle_all(self) -> None:
        """Decide on the studies of the node that are complete."""
        if self._node is None or self.config.node is None:
            return
        now = time.monotonic()
        self._later = {study: at for study, at in self._later.items() if at > now}
        for study in reversed(self._studies.of(NODE, state="receiving", most=_ALL)):
            is_quiet = self._studies.quiet_s(study) >= self.config.node.stable_s
            if not is_quiet or self._node.is_storing(study.id) or study.id in self._later:
                continue
            try:
                self._studies.settle(study)
            except QueueFullError:
                self._later[study.id] = time.monotonic() + _FULL_S
            except Exception as exc:  # noqa: BLE001  # it keeps no other from its end
                self._later[study.id] = time.monotonic() + _FULL_S
                _log.error("bug", extra={"of": "pacs", "study": study.id, "code": type(exc).__name__})

    def _report_failures(self) -> None:
        if add_failure_reports(self._studies, self._deliveries, self._later_reports):
            self._wake_outboxes()

    def _expire(self) -> None:
        self._studies.expire()
        self._deliveries.expire()
        if self._node is not None:
            self._node.sweep()
