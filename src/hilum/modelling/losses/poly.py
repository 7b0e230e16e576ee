"""Poly-1: cross entropy plus epsilon (1 - p)."""

from jaxtyping import Float
from torch import Tensor

from hilum.errors import require
from hilum.modelling.losses.base import ClassNumbers, Heads
from hilum.modelling.losses.cross_entropy import WeightedCrossEntropyLoss


class PolyLoss(WeightedCrossEntropyLoss):
    """Poly-1: -log p_y + epsilon (1 - p_y) (Leng et al. 2022, arXiv:2204.12511); the mean as in cross entropy.

    Args:
        epsilon: Additional weight of the first term of the cross entropy's series in 1 - p.
        weight: Class weights, as in ``WeightedCrossEntropyLoss``.
        multi_label: Whether each output is a label of its own.
    """

    def __init__(self, epsilon: float = 1.0, weight: ClassNumbers | None = None, *, multi_label: bool = False) -> None:
        super().__init__(weight, multi_label=multi_label)
        require(epsilon >= -1, "epsilon", "at least -1", epsilon)
        self.epsilon = epsilon

    def head_losses(self, odds: Heads, label: Heads) -> Float[Tensor, "b h"]:
        """Cross entropy plus epsilon times the first term of its series."""
        missing = (self.weighted(label) * (-odds).sigmoid()).sum(dim=2)
        return super().head_losses(odds, label) + self.epsilon * missing
