"""What training minimises: cross entropy, focal, poly-1, asymmetric, logit-adjusted, LDAM, Dice and Tversky.

All take class indices or soft labels, of classes that exclude one another or of findings of their own (multi-label),
and weights for cases. What the mean is divided by stands with each.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hilum.errors import CohortError, require
from hilum.modelling.losses.base import CaseLoss, ClassNumbers, Loss, Target, class_numbers, log_odds
from hilum.modelling.losses.dice import DiceLoss as DiceLoss
from hilum.modelling.losses.dice import TverskyLoss as TverskyLoss

Counts = Int[Tensor, "..."] | Float[Tensor, "..."]
"""Training cases of each class, (c,); multi-label: without and with each finding, (c, 2)."""


class WeightedCrossEntropyLoss(CaseLoss):
    """-log p_y, weighted by class; the mean is divided by the sum of the weights, as in PyTorch.

    Args:
        weight: One weight for each class, (c,); multi-label: absent and present of each finding, (c, 2); None: all 1.
        multi_label: Whether each output is a finding of its own: then it is binary cross entropy.
    """

    def of_heads(self, odds: Float[Tensor, "b h k"], label: Float[Tensor, "b h k"]) -> Float[Tensor, "b h"]:
        """Cross entropy under the class-weighted label."""
        return -(self.weighted(label) * F.logsigmoid(odds)).sum(dim=2)


class PolyLoss(WeightedCrossEntropyLoss):
    """Poly-1: -log p_y + epsilon (1 - p_y) (Leng et al. 2022, arXiv:2204.12511); the mean as in cross entropy.

    Args:
        epsilon: How much more the first term of the cross entropy's series in 1 - p weighs.
        weight: As in ``WeightedCrossEntropyLoss``.
        multi_label: Whether each output is a finding of its own.
    """

    def __init__(self, epsilon: float = 1.0, weight: ClassNumbers | None = None, *, multi_label: bool = False) -> None:
        super().__init__(weight, multi_label=multi_label)
        require(epsilon >= -1, "epsilon", "at least -1", epsilon)
        self.epsilon = epsilon

    def of_heads(self, odds: Float[Tensor, "b h k"], label: Float[Tensor, "b h k"]) -> Float[Tensor, "b h"]:
        """Cross entropy and its first term once more."""
        missing = (self.weighted(label) * (-odds).sigmoid()).sum(dim=2)
        return super().of_heads(odds, label) + self.epsilon * missing


class FocalLoss(CaseLoss):
    """-alpha_y (1 - p_y)^gamma log p_y (Lin et al. 2017, arXiv:1708.02002); the mean is over the number of cases.

    p comes from the plain logits: alpha weighs the loss, never the probability. With soft labels the terms of the
    classes are weighted by the label. With ``alpha=class_weights(labels, method="effective", ...)`` it is the
    class-balanced focal loss (Cui et al. 2019, arXiv:1901.05555).

    Args:
        gamma: Focusing; 0 is cross entropy.
        alpha: One weight for each class, (c,); multi-label: absent and present of each finding, (c, 2); None: all 1.
        multi_label: Whether each output is a finding of its own.
    """

    by_weight = False

    def __init__(self, gamma: float = 2.0, alpha: ClassNumbers | None = None, *, multi_label: bool = False) -> None:
        super().__init__(alpha, multi_label=multi_label)
        require(gamma >= 0, "gamma", "at least 0", gamma)
        self.gamma = gamma

    @property
    def alpha(self) -> Tensor | None:
        """The class weights, as the paper calls them."""
        return self.weight

    def of_heads(self, odds: Float[Tensor, "b h k"], label: Float[Tensor, "b h k"]) -> Float[Tensor, "b h"]:
        """Cross entropy, each class's by how unlikely the class is said to be."""
        focus = (self.gamma * F.logsigmoid(-odds)).exp()
        return -(self.weighted(label) * focus * F.logsigmoid(odds)).sum(dim=2)


class AsymmetricLoss(CaseLoss):
    """Cases with and without a finding are focused differently (Ridnik et al. 2021, arXiv:2009.14119).

    With q = max(p - clip, 0), p the finding's sigmoid: -(1 - p)^gamma_pos log p where it is present, and
    -q^gamma_neg log(1 - q) where it is not: a negative below ``clip`` costs nothing, as its authors intend; nothing
    else is clamped. Of two classes p is that of ``positive``, which should be the rare one. Of three or more that
    exclude one another it is the authors' single-label form, on the softmax and without shift: the smoothed label of
    the true class is focused by gamma_pos, those of the others by gamma_neg. The mean is over the number of cases.

    Args:
        gamma_pos: Focusing where the finding is present.
        gamma_neg: Focusing where it is not.
        clip: Probability below which a negative costs nothing.
        positive: Of two classes the one that is the finding.
        smoothing: Share of the label that all classes get, with three or more; 0.1 in the authors' code.
        multi_label: Whether each output is a finding of its own.
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

    def of_heads(self, odds: Float[Tensor, "b h k"], label: Float[Tensor, "b h k"]) -> Float[Tensor, "b h"]:
        """Of the one finding of two classes, or of all classes."""
        num_classes = label.shape[2]
        hit = -(self.gamma_pos * F.logsigmoid(-odds)).exp() * F.logsigmoid(odds)
        if num_classes == 2:
            finding = 1 if self.multi_label else self.positive
            miss = self._negative(odds[:, :, finding])
            present = label[:, :, finding]
            return present * hit[:, :, finding] + (1 - present) * miss
        miss = -(self.gamma_neg * F.logsigmoid(odds)).exp() * F.logsigmoid(odds)
        rest = self.smoothing / num_classes
        return (label * (1 - self.smoothing + rest) * hit + (1 - label) * rest * miss).sum(dim=2)

    def _negative(self, odds: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
        """-q^gamma_neg log(1 - q); 1 - p is a sigmoid of its own, or the surest mistakes would have no gradient."""
        q = torch.where(odds > 0, 1 - self.clip - (-odds).sigmoid(), odds.sigmoid() - self.clip)
        focus = torch.where(q > 0, q, 1.0) ** self.gamma_neg * (q > 0)  # so that q = 0 has a gradient, 0
        not_p = F.logsigmoid(-odds)
        if self.clip:
            not_p = torch.logaddexp(not_p, torch.full_like(not_p, self.clip).log()).clamp(max=0)
        return -focus * not_p


class LogitAdjustedLoss(CaseLoss):
    """Cross entropy of the logits + tau log prior (Menon et al. 2021, arXiv:2007.07314); the mean is over the cases.

    The plain logits, which predict, are then those of balanced classes; adding tau log prior gives back the cohort's.

    Args:
        counts: Training cases of each class.
        tau: Strength; 1 is consistent for the balanced error.
        multi_label: Whether each output is a finding of its own.

    Raises:
        CohortError: If a class has no case.
    """

    shift: Tensor

    def __init__(self, counts: ClassNumbers, tau: float = 1.0, *, multi_label: bool = False) -> None:
        super().__init__(multi_label=multi_label)
        require(tau >= 0, "tau", "at least 0", tau)
        counts = class_numbers(counts, "counts")
        log_prior = tau * (_positive(counts) / counts.sum(-1, keepdim=True)).log()
        self.register_buffer("shift", log_prior[:, 1] - log_prior[:, 0] if multi_label else log_prior)

    def odds(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b h k"]:
        """Of the shifted logits."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return log_odds(wide + self.shift.to(wide), multi_label=self.multi_label)

    def of_heads(self, odds: Float[Tensor, "b h k"], label: Float[Tensor, "b h k"]) -> Float[Tensor, "b h"]:
        """Cross entropy."""
        return -(label * F.logsigmoid(odds)).sum(dim=2)


class LDAMLoss(WeightedCrossEntropyLoss):
    """Cross entropy of scale (z_y - margin_y), margins by n^(-1/4) (Cao et al. 2019, arXiv:1906.07413).

    The largest margin, the rarest class's, is ``max_margin``. The mean is divided by the sum of the weights. Since the
    logits are multiplied by ``scale`` in training alone, they are too unsure without calibration. The authors' deferred
    weights are not part of it, nor is their last layer, which has unit weights and features: with a plain one the
    logits have no bound, and a network may grow out of any margin.

    Args:
        counts: Training cases of each class.
        max_margin: Margin of the rarest class, in logits.
        scale: Factor of the logits.
        weight: As in ``WeightedCrossEntropyLoss``.
        multi_label: Whether each output is a finding of its own; absent and present then have margins of their own.

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
        narrow = _positive(class_numbers(counts, "counts")) ** -0.25
        self.register_buffer("margins", max_margin * narrow / narrow.amax(-1, keepdim=True))
        self.scale = scale

    def odds(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b h k"]:
        """Of each class were it the true one, and so the one with a margin."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        odds = log_odds(self.scale * wide, multi_label=self.multi_label)
        return odds - self.scale * self.margins.to(odds)


class CombinedLoss(Loss):
    """weight_focal times the focal loss, over the cases, plus weight_dice times Dice, over the batch.

    Args:
        alpha: Class weights of the focal loss.
        gamma: Its focusing.
        weight_focal: Its weight.
        weight_dice: That of Dice.
        smooth: Of Dice.
        multi_label: Whether each output is a finding of its own.
    """

    def __init__(
        self,
        alpha: ClassNumbers | None = None,
        gamma: float = 2.0,
        weight_focal: float = 0.5,
        weight_dice: float = 0.5,
        smooth: float = 1.0,
        *,
        multi_label: bool = False,
    ) -> None:
        super().__init__(multi_label=multi_label)
        self.focal = FocalLoss(gamma, alpha, multi_label=multi_label)
        self.dice = DiceLoss(smooth, multi_label=multi_label)
        self.weight_focal, self.weight_dice = weight_focal, weight_dice

    def forward(
        self, logits: Float[Tensor, "b c"], target: Target, case_weight: Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, ""]:
        """The weighted sum of both."""
        focal: Tensor = self.focal(logits, target, case_weight)
        dice: Tensor = self.dice(logits, target, case_weight)
        return self.weight_focal * focal + self.weight_dice * dice


def _positive(counts: Counts) -> Float[Tensor, "..."]:
    """The counts as floats.

    Raises:
        CohortError: If one is not positive.
    """
    if not bool((counts > 0).all()):
        msg = f"every class must have training cases; got counts {counts.tolist()}"
        raise CohortError(msg)
    return counts.to(torch.float32)
