"""What training minimises: weighted cross entropy and focal loss, for hard and soft labels."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hilum.errors import ConfigError

Target = Int[Tensor, " b"] | Float[Tensor, "b c"]
"""Class indices, or a probability for each class."""


class _Loss(nn.Module, ABC):
    """Base: ``terms`` gives each case's loss and weight, ``forward`` their weighted mean.

    A mean over a whole epoch needs both sums: the batches' means must not be averaged.
    """

    @abstractmethod
    def terms(self, logits: Float[Tensor, "b c"], target: Target) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Loss of each case before weighting, and its weight."""

    def forward(self, logits: Float[Tensor, "b c"], target: Target) -> Float[Tensor, ""]:
        """sum(weight * loss) / sum(weight)."""
        losses, weights = self.terms(logits, target)
        return (losses * weights).sum() / weights.sum()


class WeightedCrossEntropyLoss(_Loss):
    """Cross entropy with a weight for each class; the mean is over the weights, as in PyTorch.

    With soft labels a case weighs the mean of its classes' weights under its label.

    Args:
        weight: One weight for each class; None: all 1.
    """

    weight: Tensor | None

    def __init__(self, weight: Float[Tensor, " c"] | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def terms(self, logits: Float[Tensor, "b c"], target: Target) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Cross entropy under the class-weighted label, and the case's weight."""
        one_hot = _as_probabilities(target, logits)
        weighted = one_hot if self.weight is None else one_hot * self.weight.to(one_hot)
        weights = weighted.sum(dim=1)
        return -(weighted * F.log_softmax(logits.float(), dim=1)).sum(dim=1) / weights, weights


class FocalLoss(_Loss):
    """Focal loss, -alpha_y (1 - p_y)^gamma log p_y (Lin et al. 2017, arXiv:1708.02002), the mean over the cases.

    p comes from the plain logits: alpha weighs the loss, never the probability. With soft labels the terms of the
    classes are weighted by the label.

    Args:
        gamma: Focusing; 0 is cross entropy.
        alpha: One weight for each class; None: all 1.
    """

    alpha: Tensor | None

    def __init__(self, gamma: float = 2.0, alpha: Float[Tensor, " c"] | None = None) -> None:
        super().__init__()
        if gamma < 0:
            msg = f"gamma must be at least 0, got {gamma}"
            raise ConfigError(msg)
        self.gamma = gamma
        self.register_buffer("alpha", alpha)

    def terms(self, logits: Float[Tensor, "b c"], target: Target) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Focal loss of each case; every case weighs 1."""
        label = _as_probabilities(target, logits)
        if self.alpha is not None:
            label = label * self.alpha.to(label)
        log_p = F.log_softmax(logits.float(), dim=1)
        miss = -torch.expm1(log_p)  # 1 - p, exact for p near 1
        focus = torch.where(miss > 0, miss, torch.finfo(miss.dtype).tiny) ** self.gamma  # 0^gamma has no gradient
        losses = -(label * focus * log_p).sum(dim=1)
        return losses, torch.ones_like(losses)


def _as_probabilities(target: Target, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """Hard labels as one-hot rows, soft labels as they are."""
    if target.is_floating_point():
        return target.to(logits.device, torch.float32)
    return F.one_hot(target.long(), logits.shape[1]).to(logits.device, torch.float32)
