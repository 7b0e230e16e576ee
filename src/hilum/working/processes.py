"""Work on many cases at once: on as many cores as memory allows, and with an orderly end when it is asked for."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

from hilum.errors import HilumError
from hilum.files import share_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stop:
    """Whether the work has been asked to end, and by which signal.

    The first signal lets the scans that are under way finish, so that nothing is left behind; the second ends at once.

    Attributes:
        signal: Its number; 0 while nobody asked.
    """

    def __init__(self) -> None:
        self.signal = 0

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            self.end()
        self.signal = number
        sys.stderr.write("\nstopping after the scans that are under way; once more: at once\n")

    def end(self) -> None:
        """End this process as the signal would have."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + self.signal)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within, signals to end are only noted; in the main thread, which alone gets any."""
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        if threading.current_thread() is not threading.main_thread():
            numbers = []
        before = {n: signal.signal(n, self._ask) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def at_once(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, stop: Stop, threads: bool
) -> Iterator[Result]:
    """The results of the items as they come, in no order; none are begun once ``stop`` was asked for.

    Each worker is a thread or a process; joblib's processes do not import the caller's script again, which so needs
    no ``if __name__ == "__main__"``. One worker is this process itself.

    Raises:
        HilumError: If a worker was ended from outside.
    """
    if workers == 1:
        for item in items:
            if stop.signal:
                return
            yield work(item)
        return
    tasks = (delayed(_undisturbed)(work, item, workers) for item in _until(items, stop))
    try:
        with parallel_config("threading") if threads else parallel_config("loky", inner_max_num_threads=1):
            parallel = Parallel(
                n_jobs=workers, return_as="generator_unordered", pre_dispatch="1.5*n_jobs", batch_size=1
            )
            yield from parallel(tasks)
    except BrokenProcessPool as exc:
        if stop.signal:  # whoever ended us ended the workers too
            return
        msg = "a worker was ended from outside, perhaps for want of memory: what is done is kept; try fewer --workers"
        raise HilumError(msg) from exc


def _until(items: Sequence[Item], stop: Stop) -> Iterator[Item]:
    for item in items:
        if stop.signal:
            return
        yield item


def _undisturbed(work: Callable[[Item], Result], item: Item, workers: int) -> Result:
    """In a worker: a signal to the whole group, as by Ctrl-C, is the parent's to act on; cores are shared."""
    if threading.current_thread() is threading.main_thread():
        share_cores(workers)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
    return work(item)
