"""The Tversky loss of a whole batch: overlap of probabilities and labels, with a cost for each kind of error."""

from jaxtyping import Float
from torch import Tensor

from hilum.errors import require
from hilum.modelling.losses.base import BatchLogits, CaseWeight, Heads, Loss, Target, label_probs, log_odds


class TverskyLoss(Loss):
    """1 - (sum pt + s) / (sum pt + alpha sum p(1 - t) + beta sum (1 - p)t + s), the mean over the classes.

    Salehi et al. 2017 (arXiv:1706.05721), each class over the whole batch: so it changes with the batch, and a batch
    without a class only lowers the probability of that class. ``beta`` above ``alpha`` makes a missed case cost more
    than a false alarm. That is a preference only if one class is meant, so of two classes name it with ``positive``:
    the mean over both would be symmetric again. Of a multi-label model only the presence of each label counts.

    Args:
        alpha: Cost of false positives.
        beta: Cost of false negatives; with both 0.5 it is Dice, with half of its ``smooth``.
        smooth: s, on both sides, so that a perfect prediction costs nothing.
        positive: The only class that counts; None: all do, as in the published definition.
        multi_label: Whether each output is a label of its own.
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
        costs = alpha >= 0 and beta >= 0 and alpha + beta > 0
        require(costs, "alpha and beta", "at least 0, not both 0", (alpha, beta))
        require(smooth > 0, "smooth", "positive", smooth)
        self.alpha, self.beta, self.smooth, self.positive = alpha, beta, smooth, positive

    def forward(self, logits: BatchLogits, target: Target, case_weight: CaseWeight = None) -> Float[Tensor, ""]:
        """1 - Tversky index, the mean over the classes that count."""
        odds = log_odds(logits, multi_label=self.multi_label)
        label = label_probs(target, logits, multi_label=self.multi_label)
        hits = self._sum(odds.sigmoid() * label, case_weight)
        false_alarms = self._sum(odds.sigmoid() * (1 - label), case_weight)
        missed = self._sum((-odds).sigmoid() * label, case_weight)
        wrong = self.alpha * false_alarms + self.beta * missed
        return (wrong / (hits + wrong + self.smooth)).mean()  # not 1 - index: that loses the last digits near 0

    def _sum(self, terms: Heads, case_weight: CaseWeight) -> Float[Tensor, "..."]:
        """Sum over the batch, for the classes that count."""
        kept = terms[:, :, 1] if self.multi_label else terms[:, 0]
        if self.positive is not None and not self.multi_label:
            kept = kept[:, self.positive : self.positive + 1]
        return (kept if case_weight is None else kept * case_weight.to(kept)[:, None]).sum(dim=0)
