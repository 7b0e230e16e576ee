"""LDAM: cross entropy with a margin for each class, larger for rare ones."""

from torch import Tensor

from hilum.errors import require
from hilum.modelling.losses.base import BatchLogits, ClassNumbers, Heads, as_float, log_odds, positive_counts
from hilum.modelling.losses.cross_entropy import WeightedCrossEntropyLoss


class LDAMLoss(WeightedCrossEntropyLoss):
    """Cross entropy of scale (z_y - margin_y), margins by n^(-1/4) (Cao et al. 2019, arXiv:1906.07413).

    The largest margin, the rarest class's, is ``max_margin``. The mean is divided by the sum of the weights. Since the
    logits are multiplied by ``scale`` in training only, they are too unsure without calibration. The authors' deferred
    weights are not part of it, nor is their last layer, which has unit weights and features: with a plain one the
    logits have no bound, and a network may grow out of any margin.

    Args:
        counts: Training cases of each class, (c,); multi-label: without and with each label, (c, 2).
        max_margin: Margin of the rarest class, in logits.
        scale: Factor of the logits.
        weight: Class weights, as in ``WeightedCrossEntropyLoss``.
        multi_label: Whether each output is a label of its own; absent and present then have a margin each.

    Raises:
        CohortError: If a class has no case.
    """

    margins: Tensor

    def __init__(
        self,
        counts: ClassNumbers,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: ClassNumbers | None = None,
        *,
        multi_label: bool = False,
    ) -> None:
        super().__init__(weight, multi_label=multi_label)
        require(max_margin >= 0, "max_margin", "at least 0", max_margin)
        require(scale > 0, "scale", "positive", scale)
        narrow = positive_counts(counts) ** -0.25
        self.register_buffer("margins", max_margin * narrow / narrow.amax(-1, keepdim=True))
        self.scale = scale

    def odds(self, logits: BatchLogits) -> Heads:
        """Log odds of each class as if it were the true one, with its margin."""
        odds = log_odds(self.scale * as_float(logits), multi_label=self.multi_label)
        return odds - self.scale * self.margins.to(odds)
