"""Loads the cases of one part of a cohort in batches, in this process or in others."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.util import get_temp_dir
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from tqdm import tqdm

from hilum.cohorts.batches import DrawnBatches, EpochBatches
from hilum.cohorts.dataset import CohortDataset
from hilum.cohorts.sampling import Decks, drawn_by
from hilum.deciding.fit_decisions import TrainingCases
from hilum.errors import HilumError, ResourceError
from hilum.modelling.losses.base import Loss
from hilum.settings.run import RunConfig

_LONGEST_TMPDIR = 75
"""Bytes: a batch is sent through a socket in a folder below it, whose path may have 107 on Linux."""


def _begin_worker(_number: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent; see to it that batches arrive there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST_TMPDIR:
        tempfile.tempdir = "/tmp"  # noqa: S108
        get_temp_dir()  # is kept for this process
        tempfile.tempdir = folder  # archives are still unpacked there


def _send_error(queue: Queue, exc: Exception, batch: tuple[int, Any]) -> None:
    """Send the error of a batch that cannot be sent in its place: PyTorch would wait for the batch for ever."""
    number, _ = batch
    error = ExceptionWrapper((type(exc), exc, exc.__traceback__), "in a loader process")  # type: ignore[no-untyped-call]
    queue.put((number, error))


@contextmanager
def _no_handler_of_dead_children() -> Iterator[None]:
    """Keep the handler of SIGCHLD that PyTorch would replace, in the main thread, the only one that may.

    Its own raises errors about dead loader processes anywhere, in the middle of a step too; without it they are raised
    where a batch is waited for.
    """
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    is_pytorchs = str(getattr(before, "__module__", "")).startswith("torch.utils.data")  # of another data loader
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if is_pytorchs or before is None else before)


def _loader_error(exc: Exception) -> Exception:
    """A clear error for what went wrong in a loader process."""
    text = str(exc)
    if "Too many open files" in text or "items of ancdata" in text:
        msg = "the loader processes may open too few files"
        return ResourceError(msg, hint="raise the limit (ulimit -n 65536), or set training.workers = 0")
    if "Bus error" in text or "shared memory" in text or "/torch_" in text:
        msg = "the loader processes ran out of shared memory, /dev/shm"
        return ResourceError(msg, hint="enlarge it (docker run --shm-size 1g), or set training.workers = 0")
    if "AF_UNIX path too long" in text:
        msg = "the path of the temporary folder is too long for what loader processes send"
        return ResourceError(msg, hint=f"set TMPDIR to a path of at most {_LONGEST_TMPDIR} characters")
    if "exited unexpectedly" in text or "is killed by signal" in text:
        msg = "a loader process was killed, perhaps because memory ran out"
        return ResourceError(msg, hint="free some, or set training.workers lower")
    return exc


class PartLoader:
    """Loads the cases of one part.

    With a seed: sampled and shuffled, in batches of one grid for each case. Without: each case once, in order, as lists
    of whole samples.
    """

    def __init__(self, dataset: CohortDataset, config: RunConfig, *, seed: int | None = None) -> None:
        self.dataset = dataset
        settings = config.training
        size = settings.batch_size if seed is not None else config.at_once(settings.batch_size)
        self.decks: Decks | None = None
        if seed is not None and config.sampling.method != "none":
            classes = drawn_by(dataset.labels)
            self.decks = Decks(classes, config.sampling.method, seed=seed, epochs=settings.epochs)
        self.batches = EpochBatches(len(dataset), size, seed=seed, decks=self.decks)
        self.loader: Any = DataLoader(
            dataset,
            batch_sampler=self.batches if seed is None else DrawnBatches(self.batches),
            collate_fn=list if seed is None else None,  # whole samples may differ in shape, so they stay a list
            num_workers=settings.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=settings.workers > 0,
            worker_init_fn=_begin_worker,
            multiprocessing_context="fork" if settings.workers and sys.platform == "linux" else None,
        )

    def times(self, epoch: int) -> Int[np.ndarray, " n"]:
        """How often each case is sampled in an epoch."""
        return np.ones(len(self.dataset), int) if self.decks is None else self.decks.times(epoch)

    def cases_of(self, epoch: int) -> TrainingCases:
        """The cases with a label as an epoch samples them."""
        known = self.dataset.is_labelled
        counted = self.times(epoch) * self.dataset.weights
        return TrainingCases(labels=self.dataset.labels[known], counted=counted[known])

    def load(self, epoch: int, what: str, *, first: int = 0) -> Iterator[Any]:
        """Batches from the one of this number on, with a progress bar on a terminal."""
        self.batches.epoch, self.batches.first = epoch, first
        with _no_handler_of_dead_children():
            loaded = iter(self.loader)
        batches = iter(tqdm(loaded, what, total=len(self.loader), leave=False, disable=None, unit="batch"))
        while True:
            try:
                batch = next(batches, None)
            except (HilumError, RuntimeError, OSError) as exc:
                clear = _loader_error(exc) if self.loader.num_workers else exc
                if clear is exc and self.loader.num_workers:
                    self.dataset.check()  # an error of a process has lost which case it is about
                raise clear from exc
            if batch is None:
                return
            yield batch

    def usual_weight(self, loss: Loss, epoch: int) -> float:
        """Mean weight in the loss over the sampled cases of an epoch."""
        places, times = list(range(len(self.dataset))), torch.from_numpy(self.times(epoch))
        targets = self.dataset.targets_of(places)
        weights = loss.weights(targets, targets, self.dataset.weights_of(places))
        return float((weights * times).sum() / times.sum())
