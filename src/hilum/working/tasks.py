"""Runs tasks on the cores of this machine: results in the order of the tasks, each failure a value with its cause."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from loky import get_reusable_executor

from hilum.errors import HilumError, ResourceError
from hilum.files import share_cores
from hilum.working.stop import SIGNALS, Stop

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Tasks that are handed out for each worker: one to work on, one to go on with."""

_IDLE_S = 60.0
"""Processes wait so long for the next call before they end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A task without a result.

    Attributes:
        error: Why.
    """

    error: Exception


def run_tasks(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    threads: bool = False,
    stop: Stop | None = None,
) -> Iterator[Result | Failed]:
    """The result of each item, in their order; none are begun once ``stop`` was asked for, and then some are missing.

    What the work raises as a HilumError, an OSError or a MemoryError is the value of that item; anything else is a bug
    and shows itself. A process that is ended from outside, as by a system without memory, fails the item that it
    worked on alone: those that it may have worked on are each tried once more in a process of their own. Processes
    share the cores, so that workers times threads is no more than there are, and do not import the caller's script.

    Args:
        work: A function of a module, so that a process can find it.
        items: Frozen values.
        workers: At most so many at once; one is this process itself.
        threads: Threads of this process instead of processes, which take seconds to start.
        stop: Asked between items.
    """
    stop = stop or Stop()
    if workers == 1 and threads:
        yield from (_tried(work, item) for item in items if not stop.signal)
        return
    number = 0  # of the item whose result is next
    ready: dict[int, Result | Failed] = {}
    left = iter(enumerate(items))
    with _pool(workers, threads) as submit:
        running: dict[Future[Any], int] = {}
        while True:
            while not stop.signal and len(running) < _AHEAD * workers and (one := next(left, None)):
                running[submit(_tried, work, one[1])] = one[0]
            while number in ready:
                yield ready.pop(number)
                number += 1
            if not running:
                return
            first = next((future for future, n in running.items() if n == number), next(iter(running)))
            try:
                ready[running[first]] = first.result()
                del running[first]
            except BrokenProcessPool:
                if stop.signal:  # whoever ended us ended the workers too
                    return
                for lost in sorted(running.values()):
                    ready[lost] = _alone(work, items[lost])
                running.clear()


@contextmanager
def _pool(workers: int, threads: bool) -> Iterator[Callable[..., Future[Any]]]:
    """What takes tasks; a broken pool of processes is replaced by the next call."""
    if threads:
        with ThreadPoolExecutor(workers) as executor:
            yield executor.submit
    else:
        yield lambda *task: _processes(workers).submit(*task)


def _processes(workers: int) -> Executor:
    executor: Executor = get_reusable_executor(
        max_workers=workers, timeout=_IDLE_S, initializer=_begin, initargs=(workers,)
    )
    return executor


def _begin(workers: int) -> None:
    """In a new process: a signal to the whole group, as by Ctrl-C, is the parent's to act on; cores are shared."""
    share_cores(workers)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _tried(work: Callable[[Item], Result], item: Item) -> Result | Failed:
    try:
        return work(item)
    except (HilumError, OSError, MemoryError) as exc:
        return Failed(error=exc)


def _alone(work: Callable[[Item], Result], item: Item) -> Result | Failed:
    """An item in a process of its own."""
    try:
        result: Result | Failed = _processes(1).submit(_tried, work, item).result()
    except BrokenProcessPool:
        msg = "the process that worked on it was ended from outside, perhaps for want of memory"
        return Failed(error=ResourceError(msg))
    return result
