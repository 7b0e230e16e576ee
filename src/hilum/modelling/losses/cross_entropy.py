"""Cross entropy, weighted by class."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hilum.modelling.losses.base import CaseLoss, Heads


class WeightedCrossEntropyLoss(CaseLoss):
    """-log p_y, weighted by class; the mean is divided by the sum of the weights, as in PyTorch.

    Args:
        weight: One weight for each class, (c,); multi-label: absent and present of each label, (c, 2); None: all 1.
        multi_label: Whether each output is a label of its own: then it is binary cross entropy.
    """

    def head_losses(self, odds: Heads, label: Heads) -> Float[Tensor, "b h"]:
        """Cross entropy under the class-weighted label."""
        return -(self.weighted(label) * F.logsigmoid(odds)).sum(dim=2)
