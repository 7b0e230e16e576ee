"""TensorBoard events of a run, written at once and without the host's name."""

import logging
import os
import time
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

_log = logging.getLogger("hilum")


class Events:
    """An events file.

    TensorBoard's own writer has a thread, whose errors reach nobody, and puts the host's name into the file's. Where an
    event cannot be written a warning says so once, and the run goes on: it needs none.

    Args:
        folder: The run folder.
        first_step: Events of an older file from this epoch on no longer count.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._event = Event
        self._file = folder / f"events.out.tfevents.{time.time_ns() // 1_000_000}.{os.getpid()}"
        self._is_off = False
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a number."""
        from torch.utils.tensorboard.summary import scalar

        self._write(step=step, summary=scalar(name, value))

    def image(self, name: str, pixels: UInt8[ndarray, "h w"], step: int) -> None:
        """Add a grey picture."""
        from torch.utils.tensorboard.summary import image

        self._write(step=step, summary=image(name, pixels, dataformats="HW"))

    def text(self, name: str, words: str, step: int) -> None:
        """Add a text."""
        from torch.utils.tensorboard.summary import text

        self._write(step=step, summary=text(name, words))

    def _write(self, **content: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._is_off:
            return
        try:
            with self._file.open("ab") as file:
                RecordWriter(file).write(self._event(wall_time=time.time(), **content).SerializeToString())
        except OSError as exc:
            self._is_off = True
            _log.warning("warning: TensorBoard's events are no longer written: %s", exc.strerror or exc)
