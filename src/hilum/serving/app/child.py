"""A child process of the service: it works for one parent, has temporary files of its own, and ends with its parent."""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from loky.backend import get_context
from tqdm import tqdm

from hilum.files import share_cores

_START_S = 120.0
"""Time that a process may take to import what it needs and to load its models."""


NOT_STARTED = "not-started"
"""Code of a process that ended before it was ready."""


class ChildLostError(Exception):
    """A child crashed, hung or was ended.

    Attributes:
        code: ``crashed``, ``killed`` (perhaps because memory ran out), ``hung``, ``stopped`` or ``not-started``.
        reason: The same in words.
    """

    def __init__(self, reason: str, *, code: str) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


class Child:
    """A process that runs ``work(connection, *args)``, and says first that it is ready.

    Args:
        work: A function at module level.
        args: Picklable arguments.
        folder: The folder of its temporary files; made, and removed with it.
        sharers: How many processes share the cores of this machine.

    Attributes:
        connection: What is sent to it and comes from it.
    """

    def __init__(self, work: Callable[..., None], args: tuple[Any, ...], folder: Path, sharers: int) -> None:
        context = get_context("loky")
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.connection, theirs = context.Pipe()
        life, self._life = context.Pipe(duplex=False)
        level = logging.getLogger("hilum").getEffectiveLevel()
        self.process = context.Process(target=_run, args=(work, args, str(folder), sharers, level, theirs, life))
        self.process.start()
        theirs.close()
        life.close()

    def ready(self, stop: threading.Event) -> None:
        """Wait until it is ready.

        Raises:
            ChildLostError: If it ends, does not become ready, or the service stops meanwhile.
        """
        self.receive(_START_S, stop)

    def send(self, value: Any) -> None:
        """Send a value.

        Raises:
            ChildLostError: If the process has ended.
        """
        try:
            self.connection.send(value)
        except OSError as exc:
            raise self._lost() from exc

    def receive(self, seconds: float, *stops: threading.Event) -> Any:
        """The next value that it sends.

        Raises:
            ChildLostError: If it ends, takes longer, or one of the events is set meanwhile.
        """
        self.wait_for_value(seconds, *stops)
        try:
            return self.connection.recv()
        except (EOFError, OSError) as exc:
            raise self._lost() from exc

    def relay(self, other: "Child") -> None:
        """Pass the next value on to another process, as the bytes that it is.

        Raises:
            ChildLostError: If this process or the other has ended; ``other`` is then told by its connection.
        """
        try:
            content = self.connection.recv_bytes()
        except (EOFError, OSError) as exc:
            raise self._lost() from exc
        try:
            other.connection.send_bytes(content)
        except OSError as exc:
            raise other._lost() from exc

    def wait_for_value(self, seconds: float, *stops: threading.Event) -> None:
        """Wait for the next value, without taking it; errors are those of ``receive``."""
        deadline = time.monotonic() + seconds
        while True:
            if any(stop.is_set() for stop in stops):
                msg = "it was told to stop"
                raise ChildLostError(msg, code="stopped")
            if wait([self.connection], timeout=min(0.1, max(0.0, deadline - time.monotonic()))):
                return
            if time.monotonic() > deadline:
                self.end()
                msg = f"its process took longer than {seconds:.0f} s for a step, and was ended"
                raise ChildLostError(msg, code="hung")

    def _lost(self) -> ChildLostError:
        self.process.join(5)
        number = self.process.exitcode
        by = signal.Signals(-number) if number is not None and number < 0 else None
        if by == signal.SIGKILL:
            return ChildLostError("its process was killed, perhaps because memory ran out", code="killed")
        how = f"by {by.name}" if by is not None else f"with exit code {number}"
        return ChildLostError(f"its process ended {how}", code="crashed")

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return bool(self.process.is_alive())

    def end(self) -> None:
        """Kill it with the decoders that it started, and remove its temporary files."""
        for number in (self.process.pid, -self.process.pid):  # its group has its number once it has begun
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        self.process.join(10)
        self.connection.close()
        self._life.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _run(
    work: Callable[..., None],
    args: tuple[Any, ...],
    folder: str,
    sharers: int,
    level: int,
    connection: Connection,
    life: Connection,
) -> None:
    """Begin a child process, and work until the parent closes the connection."""
    os.setpgrp()
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, args=(life,), daemon=True).start()
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    share_cores(sharers)
    tqdm.set_lock(threading.RLock())  # its own outlives a process that is killed
    logging.getLogger("hilum").setLevel(logging.CRITICAL + 1)  # lines of a scan may hold names of files
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        work(connection, *args)


def _end_with_parent(life: Connection) -> None:
    """Wait until the parent closes its end of a pipe, as its end does, then end at once with all decoders."""
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    os.killpg(0, signal.SIGKILL)
