"""Schedules the learning rate: lowered when validation stalls, or warmed up and annealed over the whole run."""

import math

import torch

from hilum.settings.run import TrainingConfig

_WARM_UP = 0.3
_START, _END = 1 / 25, 1e-4
"""Defaults of PyTorch's OneCycleLR for the one-cycle policy (Smith and Topin 2018, arXiv:1708.07120): share of warm-up,
initial rate over the highest, final rate over the initial."""


def one_cycle(progress: float) -> float:
    """Share of the highest rate at a point of training from 0 to 1: cosine up, then cosine down.

    Example:
        >>> [round(one_cycle(p), 2) for p in (0.0, 0.3, 1.0)]
        [0.04, 1.0, 0.0]
    """
    if progress < _WARM_UP:
        return _cosine(_START, 1.0, progress / _WARM_UP)
    return _cosine(1.0, _START * _END, (progress - _WARM_UP) / (1 - _WARM_UP))


def warmed_cosine(progress: float, warm_up: float) -> float:
    """Share of the highest rate at a point of training from 0 to 1: a line up from 0, then half a cosine down to 0.

    Loshchilov and Hutter 2017 (arXiv:1608.03983), one cycle; warm-up after Goyal et al. 2017 (arXiv:1706.02677).

    Example:
        >>> [round(warmed_cosine(p, 0.1), 2) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warm_up:
        return progress / warm_up
    return _cosine(1.0, 0.0, (progress - warm_up) / (1 - warm_up))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class Schedule:
    """Sets the optimizer's rate before each step and after each epoch.

    Attributes:
        highest: Highest rate of each group of the optimizer.
        plateau: PyTorch's scheduler for the schedule ``plateau``.
    """

    def __init__(self, config: TrainingConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        self.config = config
        self.optimizer = optimizer
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]
        self.total = max(1, config.epochs * steps_per_epoch - 1)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="min", factor=config.plateau_factor, patience=config.plateau_patience
        )

    @property
    def lr(self) -> float:
        """The head's rate, as last set."""
        return float(self.optimizer.param_groups[-1]["lr"])

    def before_step(self, step: int) -> None:
        """Set the rate of step number ``step`` of the whole run."""
        match self.config.schedule:
            case "plateau":
                return
            case "one-cycle":
                share = one_cycle(step / self.total)
            case "cosine":  # the first step moves too, and the last
                share = warmed_cosine((step + 1) / (self.total + 2), self.config.warm_up)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * share

    def after_epoch(self, val_loss: float) -> None:
        """Lower the rate if the validation loss has stalled."""
        if self.config.schedule == "plateau":
            self.plateau.step(val_loss)
