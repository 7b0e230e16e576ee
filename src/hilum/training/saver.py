"""Saves the training state: after each epoch, now and then within long ones, and when a signal ends the run."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hilum.errors import HilumError
from hilum.training.run_folder import Run
from hilum.training.state import TrainingState
from hilum.working.stop import Stop

_log = logging.getLogger("hilum")


class Saver:
    """Saves a state after steps, epochs and signals.

    Args:
        state: The state of the run.
        run: The run.
        minutes: Time after which a state is saved within an epoch.
    """

    def __init__(self, state: TrainingState, run: Run, minutes: float) -> None:
        self.state = state
        self.run = run
        self.seconds = 60 * minutes
        self.stop = Stop("stopping after this step, and saving; once more: at once")
        self.saved = time.monotonic()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """A context in which a signal to end is only recorded, until the state is saved."""
        with self.stop.on_signals():
            yield

    def between_steps(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches; where one cannot be loaded, the steps before it are saved."""
        while True:
            try:
                batch = next(batches, None)
            except (HilumError, OSError, RuntimeError, MemoryError):
                with contextlib.suppress(HilumError, OSError):  # on a full disk the cause counts
                    self._save()
                raise
            if batch is None:
                return
            yield batch

    def after_step(self) -> None:
        """Save if it is time, and end if a signal asked for it."""
        if self.stop.signal or time.monotonic() - self.saved >= self.seconds:
            self._save()

    def after_batch(self) -> None:
        """End if a signal asked for it: validation changes nothing of the state."""
        if self.stop.signal:
            self._save()

    def after_epoch(self) -> None:
        """Save."""
        self._save()

    def _save(self) -> None:
        self.state.save(self.run.checkpoint)
        self.saved = time.monotonic()
        if self.stop.signal:
            progress = self.state.progress
            name = signal.Signals(self.stop.signal).name
            where = f"{progress.epoch} epochs and {progress.step} steps are saved in {self.run.checkpoint}"
            how = "" if self.run.is_member else f"; {self.run.resume_command} goes on"  # with the run of folds
            _log.warning("stopped by %s: %s%s", name, where, how)
            self.stop.end()
