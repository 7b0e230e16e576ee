"""Logit adjustment: cross entropy of logits that are shifted by the log prior of their class."""

from torch import Tensor

from hilum.errors import require
from hilum.modelling.losses.base import BatchLogits, ClassNumbers, Heads, as_float, log_odds, positive_counts
from hilum.modelling.losses.cross_entropy import WeightedCrossEntropyLoss


class LogitAdjustedLoss(WeightedCrossEntropyLoss):
    """Cross entropy of the logits + tau log prior (Menon et al. 2021, arXiv:2007.07314); the mean is over the cases.

    The plain logits, which predict, are then those of balanced classes; adding tau log prior gives back the cohort's.

    Args:
        counts: Training cases of each class, (c,); multi-label: without and with each label, (c, 2).
        tau: Strength; 1 is consistent for the balanced error.
        smoothing: As in ``WeightedCrossEntropyLoss``.
        multi_label: Whether each output is a label of its own.

    Raises:
        CohortError: If a class has no case.
    """

    shift: Tensor

    def __init__(
        self, counts: ClassNumbers, tau: float = 1.0, *, smoothing: float = 0.0, multi_label: bool = False
    ) -> None:
        super().__init__(smoothing=smoothing, multi_label=multi_label)
        require(tau >= 0, "tau", "at least 0", tau)
        cases = positive_counts(counts)
        log_prior = tau * (cases / cases.sum(-1, keepdim=True)).log()
        self.register_buffer("shift", log_prior[:, 1] - log_prior[:, 0] if multi_label else log_prior)

    def odds(self, logits: BatchLogits) -> Heads:
        """Log odds of the shifted logits."""
        wide = as_float(logits)
        return log_odds(wide + self.shift.to(wide), multi_label=self.multi_label)
