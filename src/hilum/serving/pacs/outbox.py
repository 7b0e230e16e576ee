"""A thread for each destination, which sends what is due, and waits longer and longer while nobody is there."""

import logging
import threading
from collections.abc import Callable

from hilum.serving.pacs.deliveries import UNREACHED, Deliveries, Delivery, back_off
from hilum.serving.pacs.destination import Destination, SendStatus, UnreachableError

_log = logging.getLogger("hilum.serve")

_IDLE_S = 0.5


class Outbox:
    """Sends the objects of one destination.

    Args:
        name: Name of the destination.
        destination: The destination.
        deliveries: The objects.
        study_uid: StudyInstanceUID by the id of a study.
    """

    def __init__(
        self, name: str, destination: Destination, deliveries: Deliveries, study_uid: Callable[[str], str]
    ) -> None:
        self._name, self._destination, self._deliveries, self._uid = name, destination, deliveries, study_uid
        self._failures = 0
        self._stop, self._now = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"outbox-{name}", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def wake(self) -> None:
        """Say that something may be due."""
        self._now.set()

    def stop(self, seconds: float) -> None:
        """Stop after the object that is being sent, at the latest after so many seconds."""
        self._stop.set()
        self._now.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._now.wait(_IDLE_S)
            self._now.clear()
            try:
                while not self._stop.is_set() and (batch := self._deliveries.due(self._name)):
                    self._send(batch)
            except Exception as exc:  # noqa: BLE001  # a bug, or a full disk: later again
                _log.error("bug", extra={"of": "outbox", "code": type(exc).__name__})
                self._stop.wait(self._wait_s())

    def _send(self, batch: list[Delivery]) -> None:
        """One try of the objects of a result."""
        self._deliveries.begin(batch)
        batch, gone = [one for one in batch if one.file.is_file()], [one for one in batch if not one.file.is_file()]
        for one in gone:
            self._deliveries.failed(one, "its file is gone", is_final=True)
        if not batch:
            return
        left = list(batch)
        try:
            uid = self._uid(batch[0].study)
            for answer in self._destination.send([one.file for one in batch], uid):
                self._note(left.pop(0), answer)
                if self._stop.is_set():
                    return
        except UnreachableError as exc:
            for one in left:
                self._deliveries.failed(one, str(exc) or UNREACHED)
            self._failures += 1
            self._stop.wait(self._wait_s())
        except Exception:
            for one in left:
                self._deliveries.failed(one, "a fault in Hilum")
            raise

    def _note(self, one: Delivery, answer: SendStatus) -> None:
        if self._failures:
            self._failures = 0
            self._deliveries.reached(self._name)
        if answer.reason:
            self._deliveries.failed(one, answer.reason, is_final=answer.is_final)
        else:
            self._deliveries.sent(one)

    def _wait_s(self) -> float:
        settings = self._deliveries.config.delivery
        self._failures = max(1, self._failures)
        return back_off(self._failures, settings.first_retry_s, settings.longest_retry_s)
