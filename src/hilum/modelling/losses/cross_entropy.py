"""Cross entropy, weighted by class."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hilum.errors import require
from hilum.modelling.losses.base import CaseLoss, ClassNumbers, Heads


class WeightedCrossEntropyLoss(CaseLoss):
    """-log p_y, weighted by class; the mean is divided by the sum of the weights, as in PyTorch.

    Args:
        weight: One weight for each class, (c,); multi-label: absent and present of each label, (c, 2); None: all 1.
        smoothing: Share of each label that is spread evenly over the classes (Szegedy et al. 2016, arXiv:1512.00567),
            of a multi-label model over absent and present. A case keeps the weight of its own class; in PyTorch the
            share of a rare class counts by that class's weight, and pulls all others towards it. In training mode only.
        multi_label: Whether each output is a label of its own: then it is binary cross entropy.
    """

    def __init__(
        self, weight: ClassNumbers | None = None, *, smoothing: float = 0.0, multi_label: bool = False
    ) -> None:
        super().__init__(weight, multi_label=multi_label)
        require(0 <= smoothing < 1, "smoothing", "at least 0 and below 1", smoothing)
        self.smoothing = smoothing

    def head_losses(self, odds: Heads, label: Heads) -> Float[Tensor, "b h"]:
        """Cross entropy under the class-weighted label."""
        share = self.weighted(label)
        if self.training and self.smoothing:
            share = (1 - self.smoothing) * share + self.smoothing * share.mean(dim=2, keepdim=True)
        return -(share * F.logsigmoid(odds)).sum(dim=2)
