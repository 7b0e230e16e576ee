"""The asymmetric loss: positives and negatives are focused differently."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hilum.errors import require
from hilum.modelling.losses.base import CaseLoss, Heads


class AsymmetricLoss(CaseLoss):
    """Positives and negatives of a label are focused differently (Ridnik et al. 2021, arXiv:2009.14119).

    With q = max(p - clip, 0), p the label's sigmoid: -(1 - p)^gamma_pos log p for positives and
    -q^gamma_neg log(1 - q) for negatives: a negative below ``clip`` costs nothing, as its authors intend; nothing
    else is clamped. Of two classes p is that of ``positive``, which should be the rare one. Of three or more exclusive
    classes it is the authors' single-label form, on the softmax and without shift: the smoothed label of the true
    class is focused by gamma_pos, those of the others by gamma_neg. The mean is over the number of cases.

    Args:
        gamma_pos: Focusing of positives.
        gamma_neg: Focusing of negatives.
        clip: Probability below which a negative costs nothing.
        positive: The positive class of two.
        smoothing: Share of the label that is spread over all classes, with three or more; 0.1 in the authors' code.
        multi_label: Whether each output is a label of its own.
    """

    def __init__(
        self,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        *,
        positive: int = 1,
        smoothing: float = 0.1,
        multi_label: bool = False,
    ) -> None:
        super().__init__(multi_label=multi_label)
        require(gamma_pos >= 0 and gamma_neg >= 0, "gamma_pos and gamma_neg", "at least 0", (gamma_pos, gamma_neg))
        require(0 <= clip < 1, "clip", "at least 0 and below 1", clip)
        require(0 <= smoothing < 1, "smoothing", "at least 0 and below 1", smoothing)
        require(positive in (0, 1), "positive", "0 or 1", positive)
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip
        self.positive, self.smoothing = positive, smoothing

    def head_losses(self, odds: Heads, label: Heads) -> Float[Tensor, "b h"]:
        """Loss of the positive class of two, or of all classes of more."""
        num_classes = label.shape[2]
        hit = -(self.gamma_pos * F.logsigmoid(-odds)).exp() * F.logsigmoid(odds)
        if num_classes == 2:
            k = 1 if self.multi_label else self.positive
            present = label[:, :, k]
            return present * hit[:, :, k] + (1 - present) * self._negative(odds[:, :, k])
        miss = -(self.gamma_neg * F.logsigmoid(odds)).exp() * F.logsigmoid(odds)
        rest = self.smoothing / num_classes
        return (label * (1 - self.smoothing + rest) * hit + (1 - label) * rest * miss).sum(dim=2)

    def _negative(self, odds: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
        """-q^gamma_neg log(1 - q).

        1 - p is computed as sigmoid(-odds): as a difference, confident errors would have no gradient.
        """
        q = torch.where(odds > 0, 1 - self.clip - (-odds).sigmoid(), odds.sigmoid() - self.clip)
        focus = torch.where(q > 0, q, 1.0) ** self.gamma_neg * (q > 0)  # so that q = 0 has a gradient, 0
        not_p = F.logsigmoid(-odds)
        if self.clip:
            not_p = torch.logaddexp(not_p, torch.full_like(not_p, self.clip).log()).clamp(max=0)
        return -focus * not_p
