"""Runs a few long jobs side by side, each in a process of its own that saves its work when it is told to stop."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from loky.backend import get_context

from hilum.errors import HilumError, ResourceError, require
from hilum.files import share_cores
from hilum.working.stop import Stop
from hilum.working.tasks import Failed, Item

_POLL_S = 1.0
"""Time between looks at the signal: a wait for processes does not end by one."""


def run_jobs(
    work: Callable[[Item], Any],
    items: Sequence[Item],
    *,
    jobs: int,
    names: Sequence[str],
    stop: Stop,
    on_failure: Callable[[str, Failed], None] = lambda *_: None,
) -> list[Any]:
    """The result of each item, in order; a failure is a ``Failed``.

    The processes share the cores. A signal that ``stop`` records is passed on to them once, as SIGTERM: each ends in
    order, no new one starts, and the signal then ends this process too. A process also ends where this one is killed.
    The caller's script is not imported.

    Args:
        work: A function at module level.
        items: Picklable values.
        jobs: Largest number of processes at a time.
        names: Name of each item, in front of the lines that its process logs.
        stop: Records signals.
        on_failure: Is called with the name of an item and its failure as soon as that is known.

    Raises:
        ConfigError: If ``jobs`` is not positive.
    """
    require(jobs >= 1, "jobs", "at least 1", jobs)
    results: list[Any] = [None] * len(items)
    left = list(range(len(items)))[::-1]
    running: dict[int, _Job] = {}
    told = False
    with stop.on_signals():
        while running or (left and not stop.signal):
            while left and len(running) < jobs and not stop.signal:
                number = left.pop()
                running[number] = _Job(work, items[number], jobs, names[number])
            if stop.signal and not told:
                told = True
                for job in running.values():
                    job.tell()
            wait([job.results for job in running.values()], timeout=_POLL_S)
            for number, job in list(running.items()):
                if job.is_over():
                    results[number] = job.result()
                    del running[number]
                    if isinstance(results[number], Failed) and not stop.signal:
                        on_failure(names[number], results[number])
        if stop.signal:
            stop.end()
    return results


class _Job:
    """A process and the pipe through which it answers."""

    def __init__(self, work: Callable[[Any], Any], item: Any, jobs: int, name: str) -> None:
        context = get_context("loky")
        self.results, answers = context.Pipe(duplex=False)
        life, self.life = context.Pipe(duplex=False)
        level = logging.getLogger("hilum").getEffectiveLevel()
        self.process = context.Process(target=_run, args=(work, item, jobs, name, level, answers, life))
        self.process.start()
        answers.close()
        life.close()

    def tell(self) -> None:
        """Tell the process to end in order."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)

    def is_over(self) -> bool:
        """Whether it has answered or ended."""
        return bool(self.results.poll()) or not self.process.is_alive()

    def result(self) -> Any:
        """Its answer."""
        try:
            answer = self.results.recv() if self.results.poll() else None
        except EOFError:
            answer = None
        self.process.join()
        self.life.close()
        if answer is not None:
            return answer[0]
        code = self.process.exitcode
        by = signal.Signals(-code) if code is not None and code < 0 else None
        how = f"by {by.name}" if by is not None else f"with exit code {code}"
        msg = f"its process ended {how}" + (", perhaps because memory ran out" if by == signal.SIGKILL else "")
        return Failed(error=ResourceError(msg))


def _run(
    work: Callable[[Any], Any], item: Any, jobs: int, name: str, level: int, answers: Connection, life: Connection
) -> None:
    """Do the work of a process, and answer."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on
    threading.Thread(target=_end_with_parent, args=(life,), daemon=True).start()
    share_cores(jobs)
    Stop.is_quiet = True  # the parent has said that all stop
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    logger = logging.getLogger("hilum")
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        answers.send((work(item),))
    except (HilumError, OSError, MemoryError) as exc:
        answers.send((Failed(error=exc),))
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent(life: Connection) -> None:
    """Wait until the parent closes its end of a pipe, which its own end does too, then end in order."""
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    os.kill(os.getpid(), signal.SIGTERM)
