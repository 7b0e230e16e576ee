"""Lets work that is under way end in order when a signal asks for it."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a process to end."""


class Stop:
    """Whether the work has been asked to end, and by which signal.

    The first signal lets the tasks that are under way finish, so that nothing is left behind; the second ends at once.

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
        numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {n: signal.signal(n, self._ask) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
