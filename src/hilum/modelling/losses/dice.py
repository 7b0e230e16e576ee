"""Losses of a whole batch: how far the probabilities of a class overlap with the cases that are of it."""

from jaxtyping import Float
from torch import Tensor

from hilum.errors import require
from hilum.modelling.losses.base import Loss, Target, as_label, log_odds


class TverskyLoss(Loss):
    """1 - (sum pt + s) / (sum pt + alpha sum p(1 - t) + beta sum (1 - p)t + s), the mean over the classes.

    Salehi et al. 2017 (arXiv:1706.05721), each class over the whole batch: so it changes with the batch, and a batch
    without a class only says that nothing should be called it. ``beta`` above ``alpha`` makes a missed case dearer than
    a false alarm; that is a preference only where one class is meant, so with two classes name it with ``positive``:
    the mean over both would be symmetric again. Of multi-label findings only present ones count.

    Args:
        alpha: Cost of false positives.
        beta: Cost of false negatives; with both 0.5 it is Dice, with half of its ``smooth``.
        smooth: s, on both sides, so that a perfect prediction costs nothing.
        positive: The one class that counts; None: all do, as in the published definition.
        multi_label: Whether each output is a finding of its own.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
        *,
        positive: int | None = None,
        multi_label: bool = False,
    ) -> None:
        super().__init__(multi_label=multi_label)
        require(
            alpha >= 0 and beta >= 0 and alpha + beta > 0, "alpha and beta", "at least 0, not both 0", (alpha, beta)
        )
        require(smooth > 0, "smooth", "positive", smooth)
        self.alpha, self.beta, self.smooth = alpha, beta, smooth
        self.positive = positive

    def forward(
        self, logits: Float[Tensor, "b c"], target: Target, case_weight: Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, ""]:
        """1 - Tversky index, the mean over the classes that count."""
        odds = log_odds(logits, multi_label=self.multi_label)
        label = as_label(target, logits, multi_label=self.multi_label)
        hits, false_alarms, missed = (
            self._sum(of_each, case_weight)
            for of_each in (odds.sigmoid() * label, odds.sigmoid() * (1 - label), (-odds).sigmoid() * label)
        )
        wrong = self.alpha * false_alarms + self.beta * missed
        return (wrong / (hits + wrong + self.smooth)).mean()  # not 1 - index: that loses the last digits near 0

    def _sum(self, of_each: Float[Tensor, "b h k"], case_weight: Float[Tensor, " b"] | None) -> Float[Tensor, "..."]:
        """Over the batch, of the classes that count."""
        kept = of_each[:, :, 1] if self.multi_label else of_each[:, 0]
        if self.positive is not None and not self.multi_label:
            kept = kept[:, self.positive : self.positive + 1]
        return (kept if case_weight is None else kept * case_weight.to(kept)[:, None]).sum(dim=0)


class DiceLoss(TverskyLoss):
    """1 - (2 sum pt + s) / (sum p + sum t + s), the mean over the classes, each over the whole batch.

    Milletari et al. 2016 (arXiv:1606.04797), without squares. With hard labels a perfect prediction costs 0. It follows
    F1, not recall: for recall take ``TverskyLoss`` or a threshold.

    Args:
        smooth: s, on both sides.
        multi_label: Whether each output is a finding of its own.
    """

    def __init__(self, smooth: float = 1.0, *, multi_label: bool = False) -> None:
        super().__init__(0.5, 0.5, smooth / 2, multi_label=multi_label)
