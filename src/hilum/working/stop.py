"""Stops work in order on a signal: running tasks finish, no new ones start."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a process to end."""


class Stop:
    """Records the signal that requested the end.

    After the first signal running tasks finish, so that no temporary files remain; the second ends at once, but not in
    processes whose parent was told too.

    Args:
        message: What the first signal prints.

    Attributes:
        signal: Number of the signal; 0 before any.
        is_quiet: Whether nothing is printed, as in processes whose parent has printed it.
    """

    is_quiet: ClassVar[bool] = False

    def __init__(self, message: str = "stopping after the scans that are under way; once more: at once") -> None:
        self.message = message
        self.signal = 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal and not self.is_quiet:  # a scheduler may signal a process, and its parent again
            self.end()
        self.signal = number
        if not self.is_quiet:
            sys.stderr.write(f"\n{self.message}\n")

    def end(self) -> None:
        """End this process as the signal would have."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + self.signal)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """A context in which signals are only recorded; effective in the main thread, the only one to receive them."""
        numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {n: signal.signal(n, self._on_signal) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
