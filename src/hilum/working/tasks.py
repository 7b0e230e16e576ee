"""Runs tasks on the cores of this machine; results come in the order of the tasks, failures as values."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from loky import get_reusable_executor

from hilum.errors import HilumError, ResourceError, require
from hilum.files import share_cores
from hilum.working.stop import SIGNALS, Stop

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Tasks submitted for each worker: one running, one waiting."""

_IDLE_S = 60.0
"""Time after which idle worker processes end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A failed task.

    Attributes:
        error: The cause.
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
    """Yield the result of each item, in order; after a stop no items are started, and the rest is missing.

    A HilumError, OSError or MemoryError is returned as the value of its item; other exceptions are bugs and propagate.
    If a worker process is killed, for example for lack of memory, only its item fails: all items that were running are
    repeated, each in its own process. Processes share the cores, so that workers times threads does not exceed them,
    and do not import the caller's script.

    Args:
        work: A function at module level, which processes can import.
        items: Picklable values.
        workers: Largest number of items at once; with threads, 1 is the calling thread.
        threads: Use threads of this process instead of processes, which take seconds to start.
        stop: Checked before each item.

    Raises:
        ConfigError: If there is no worker.
    """
    require(workers >= 1, "workers", "at least 1", workers)
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
                if stop.signal:  # the signal ended the workers too
                    return
                for lost in sorted(running.values()):
                    ready[lost] = _alone(work, items[lost])
                running.clear()


@contextmanager
def _pool(workers: int, threads: bool) -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function that submits tasks; a broken pool of processes is replaced at its next call."""
    if threads:
        with ThreadPoolExecutor(workers) as executor:
            yield executor.submit
        return

    def submit(*task: Any) -> Future[Any]:
        try:
            return _processes(workers).submit(*task)
        except BrokenProcessPool:  # it broke after it was asked for; the next one is new
            return _processes(workers).submit(*task)

    yield submit


def _processes(workers: int) -> Executor:
    executor: Executor = get_reusable_executor(
        max_workers=workers, timeout=_IDLE_S, initializer=_begin, initargs=(workers,)
    )
    return executor


def _begin(workers: int) -> None:
    """Initialise a worker process: share the cores, and ignore signals to the group, which the parent handles."""
    share_cores(workers)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _tried(work: Callable[[Item], Result], item: Item) -> Result | Failed:
    try:
        return work(item)
    except (HilumError, OSError, MemoryError) as exc:
        return Failed(error=exc)


def _alone(work: Callable[[Item], Result], item: Item) -> Result | Failed:
    """Run an item in its own process."""
    try:
        result: Result | Failed = _processes(1).submit(_tried, work, item).result()
    except BrokenProcessPool:
        msg = "the process that worked on it was killed, perhaps because memory ran out"
        return Failed(error=ResourceError(msg))
    return result
