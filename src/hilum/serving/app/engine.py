"""Works through the queue: processes that read and prepare on all cores, and one for each device with the networks."""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hilum.files import cores, sync_to_disk
from hilum.serving.app.child import NOT_STARTED, Child, ChildLostError
from hilum.serving.app.database import sync_folder
from hilum.serving.app.jobs import Job, JobEnd, Jobs
from hilum.serving.app.network import run_networks
from hilum.serving.app.worker import Order, ServedModel, run_worker

_log = logging.getLogger("hilum.serve")

_IDLE_S = 0.5
_PATIENCE_S = 120.0
"""Time for which the end of a job is tried to be written down before its result counts as lost."""
_BACK_OFF_S = 30.0
"""Longest wait before a process that cannot start is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine works with.

    Attributes:
        models: The models by name.
        folders: Folder of each model.
        names: Names of the outputs of models that are not called by their own.
        devices: Devices, such as cpu, or cuda:0 and cuda:1.
        workers: Processes that read and prepare; 0: one for each core.
        max_bytes: Largest scan and largest unpacked archive.
        step_s: Longest step of a job.
    """

    models: Mapping[str, ServedModel]
    folders: Mapping[str, Path]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    workers: int = 0
    max_bytes: int = 8 * 10**9
    step_s: float = 600.0


class Engine:
    """Threads, each with a process of its own that takes one job after the other.

    Args:
        jobs: The queue.
        config: What to work with.
        on_end: Called with each job that has ended, within one transaction with its end; if it is done, its result is
            in its place.

    Attributes:
        num_lost: Number of processes that crashed, hung or were killed while they worked on a job.
    """

    def __init__(self, jobs: Jobs, config: EngineConfig, on_end: Callable[[Job], None] = lambda _: None) -> None:
        self.jobs, self.config, self._on_end = jobs, config, on_end
        self.num_lost = 0
        self._folder = jobs.database.folder
        self._stop, self._now = threading.Event(), threading.Event()
        self._waiting = threading.Condition()
        self._cancelled: dict[str, threading.Event] = {}
        self._networks: queue.Queue[_Slot] = queue.Queue()
        self._slots: list[_Slot] = []
        self._threads: list[threading.Thread] = []

    @property
    def is_ready(self) -> bool:
        """Whether every process has started and is alive."""
        return bool(self._slots) and not self._stop.is_set() and all(slot.is_alive for slot in self._slots)

    def start(self) -> None:
        """Start the processes, and work."""
        config, number = self.config, self.config.workers or cores()
        for device in config.devices:
            slot = _Slot(
                name=f"network-{device.replace(':', '-')}", stop=self._stop,
                make=lambda folder, device=device: Child(  # type: ignore[misc]
                    run_networks, (config.folders, config.names, device), folder, 1
                ),
                folder=self._folder / "tmp",
            )  # fmt: skip
            self._slots.append(slot)
            self._networks.put(slot)
        workers = [
            _Slot(
                name=f"worker-{n}", stop=self._stop, folder=self._folder / "tmp",
                make=lambda folder: Child(run_worker, (config.models, config.max_bytes), folder, number),
            )
            for n in range(number)
        ]  # fmt: skip
        self._slots += workers
        for slot in self._slots[: len(config.devices)]:
            self._threads.append(threading.Thread(target=self._keep, args=(slot,), daemon=True))
        self._threads += [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in workers]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Say that there may be a new job."""
        with self._waiting:
            self._waiting.notify_all()

    def cancel(self, id: str) -> None:  # noqa: A002
        """End the process of a running job that was cancelled."""
        event = self._cancelled.get(id)
        if event is not None:
            event.set()

    def stop(self, seconds: float) -> None:
        """End in order: no new job starts, running ones get so many seconds, and then wait for the next start."""
        self._stop.set()
        self.wake()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._now.set()
        for thread in self._threads:
            thread.join(10)
        for slot in self._slots:
            slot.end()

    def _keep(self, slot: "_Slot") -> None:
        """Start the process of a device before it is needed, and again whenever it has ended."""
        while not self._stop.wait(_IDLE_S):
            if slot.is_alive or not slot.lock.acquire(blocking=False):
                continue
            try:
                with contextlib.suppress(ChildLostError):
                    slot.started()
            finally:
                slot.lock.release()

    def _work(self, slot: "_Slot") -> None:
        while not self._stop.is_set():
            try:
                with slot.lock:
                    slot.started()
            except ChildLostError:
                continue
            try:
                job = self.jobs.take()
            except sqlite3.Error as exc:  # a full disk
                _log.error("gave-up", extra={"code": type(exc).__name__})
                job = None
            if job is None:
                with self._waiting:
                    self._waiting.wait(_IDLE_S)
                continue
            self._cancelled[job.id] = threading.Event()
            try:
                self._run(job, slot)
            except (OSError, sqlite3.OperationalError):
                slot.end()
                self.jobs.database.remove("results", job.id)
                self._gave_up(job, code="disk", reason="its result cannot be written: the disk may be full")
            except Exception as exc:  # noqa: BLE001  # a bug must not end the thread, nor lose the job
                slot.end()
                self._gave_up(job, code="bug", reason=f"a fault in Hilum: {type(exc).__name__}")
            finally:
                del self._cancelled[job.id]

    def _run(self, job: Job, slot: "_Slot") -> None:
        """One try of a job."""
        cancelled = self._cancelled[job.id]
        if self.jobs[job.id].is_cancelled:
            self._ended(job, "cancelled")
            return
        new = self._folder / "results" / f".new-{job.id}"
        try:
            with slot.lock:
                child = slot.started()
                scan = ("pacs", job.study) if job.study else ("uploads", job.id)
                path = self._folder.joinpath(*scan)
                child.send(Order(model=job.model, settings=job.settings, scan=path, out=new))
                answer = self._followed(job, child, cancelled)
            if cancelled.is_set():
                self.jobs.database.remove("results", new.name)
                self._ended(job, "cancelled")
            elif answer[0] == "done":
                self._finish(job, new, answer[1])
            else:
                self.jobs.database.remove("results", new.name)  # which may fill the disk
                self._ended(job, "failed", code=answer[1], reason=answer[2])
        except ChildLostError as exc:
            slot.end()
            self._lost(job, exc, cancelled)
        finally:
            self.jobs.database.remove("results", new.name)

    def _lost(self, job: Job, exc: ChildLostError, cancelled: threading.Event) -> None:
        """What follows for a job whose process has ended."""
        if cancelled.is_set():
            self._ended(job, "cancelled")
        elif self._now.is_set() or exc.code == NOT_STARTED:
            self._patiently(lambda: self.jobs.put_back(job.id))  # it is not its fault
        else:
            self.num_lost += 1
            self._retry(job, exc)

    def _followed(self, job: Job, child: Child, cancelled: threading.Event) -> tuple:
        """Follow a job through its steps, to the answer of its process."""
        limit = self.config.step_s
        while True:
            said = child.receive(limit, cancelled, self._now)
            if said[0] == "step":
                self.jobs.at_step(job.id, said[1])
            elif said[0] == "ask":
                self._ask(child, cancelled)
            else:
                return tuple(said)

    def _ask(self, child: Child, cancelled: threading.Event) -> None:
        """Pass a question of a process on to the first device that is free, and the answer back."""
        child.wait_for_value(self.config.step_s, cancelled, self._now)
        with self._network(cancelled) as slot, slot.lock:
            network = slot.started()
            try:
                child.relay(network)
                network.wait_for_value(self.config.step_s, cancelled, self._now)
                network.relay(child)
            except ChildLostError:
                slot.end()  # an answer that comes late would be taken for the next job's
                raise

    @contextmanager
    def _network(self, cancelled: threading.Event) -> Iterator["_Slot"]:
        while True:
            try:
                slot = self._networks.get(timeout=0.1)
                break
            except queue.Empty:
                if cancelled.is_set() or self._now.is_set():
                    msg = "it was told to stop"
                    raise ChildLostError(msg, code="stopped") from None
        try:
            yield slot
        finally:
            self._networks.put(slot)

    def _finish(self, job: Job, new: Path, summary: dict) -> None:
        """Put a result in its place, and end its job."""
        sync_folder(new)
        target = self._folder / "results" / job.id
        self.jobs.database.remove("results", job.id)
        new.rename(target)
        sync_to_disk(target.parent)
        self._ended(job, "done", summary=summary)

    def _ended(
        self, job: Job, state: JobEnd, *, code: str = "", reason: str = "", summary: dict[str, Any] | None = None
    ) -> None:
        """Write down the end of a job."""

        def write() -> None:
            with self.jobs.database.change():
                self.jobs.end(job.id, state, code=code, reason=reason, summary=summary)
                self._on_end(self.jobs[job.id])

        self._patiently(write)
        self.jobs.database.remove("uploads", job.id)
        _log.info("job", extra={"job": job.id, "state": state, "code": code})

    def _patiently(self, write: Callable[[], None]) -> None:
        """Change the data base as soon as that can be: another program may hold it, or the disk be full."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                write()
            except sqlite3.OperationalError:
                if time.monotonic() > deadline or self._stop.wait(_IDLE_S):
                    raise
            else:
                return

    def _gave_up(self, job: Job, *, code: str, reason: str) -> None:
        """End a job that has met a fault of the machine or of Hilum; on a full disk even that may take a while."""
        _log.error("gave-up", extra={"job": job.id, "code": code})
        while True:
            try:
                self._ended(job, "failed", code=code, reason=reason)
            except Exception as exc:  # noqa: BLE001  # the data base cannot be written: the job must not be lost
                _log.error("gave-up", extra={"job": job.id, "code": type(exc).__name__})
                if self._stop.wait(_IDLE_S):
                    return  # it runs again after the next start
            else:
                return

    def _retry(self, job: Job, exc: ChildLostError) -> None:
        """Let a job whose process was lost wait for its second try, or fail."""

        def write() -> None:
            with self.jobs.database.change():
                if not self.jobs.lost(job.id, exc.code, exc.reason):
                    self._on_end(self.jobs[job.id])

        self._patiently(write)
        if self.jobs[job.id].has_ended:
            self.jobs.database.remove("uploads", job.id)
        _log.warning("lost", extra={"job": job.id, "state": self.jobs[job.id].state, "code": exc.code})


@dataclass(slots=True, kw_only=True)
class _Slot:
    """The place of a process, which is started again when it has ended.

    Attributes:
        name: Its name.
        make: Makes the process with a folder for its temporary files.
        folder: Where that folder is made.
        stop: Set when the service stops.
        child: The process; None: there is none.
        lock: Is held by the thread that uses the process.
    """

    name: str
    make: Callable[[Path], Child]
    folder: Path
    stop: threading.Event
    child: Child | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    _is_ready: bool = False
    _failures: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether the process has said that it is ready, and runs."""
        child = self.child
        return self._is_ready and child is not None and child.is_alive

    def started(self) -> Child:
        """The process, started if there is none.

        Raises:
            ChildLostError: If it cannot start; the next call waits before it tries again.
        """
        if self.child is not None and not self.child.is_alive:
            self.end()
        if self.child is None:
            if self._failures:
                self.stop.wait(min(_BACK_OFF_S, 2.0**self._failures))
            self.child = self.make(self.folder / self.name)
            try:
                self.child.ready(self.stop)
            except ChildLostError as exc:
                self._failures += 1
                self.end()
                if exc.code == "stopped":
                    raise
                _log.error("no-process", extra={"of": self.name, "code": exc.code})
                raise ChildLostError(exc.reason, code=NOT_STARTED) from exc
            self._failures, self._is_ready = 0, True
            _log.info("process", extra={"of": self.name, "pid": self.child.process.pid})
        return self.child

    def end(self) -> None:
        """End the process."""
        self._is_ready = False
        if self.child is not None:
            self.child.end()
            self.child = None
