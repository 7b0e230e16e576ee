"""The focal loss, and with class weights the class-balanced focal loss."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hilum.errors import require
from hilum.modelling.losses.base import CaseLoss, ClassNumbers, Heads


class FocalLoss(CaseLoss):
    """-alpha_y (1 - p_y)^gamma log p_y (Lin et al. 2017, arXiv:1708.02002); the mean is over the number of cases.

    p comes from the plain logits: alpha weights the loss, never the probability. With soft labels the terms of the
    classes are weighted by the label. With ``alpha=class_weights(labels, method="effective", ...)`` it is the
    class-balanced focal loss (Cui et al. 2019, arXiv:1901.05555).

    Args:
        gamma: Focusing; 0 is cross entropy.
        alpha: One weight for each class, (c,); multi-label: absent and present of each label, (c, 2); None: all 1.
        multi_label: Whether each output is a label of its own.
    """

    by_weight = False

    def __init__(self, gamma: float = 2.0, alpha: ClassNumbers | None = None, *, multi_label: bool = False) -> None:
        super().__init__(alpha, multi_label=multi_label)
        require(gamma >= 0, "gamma", "at least 0", gamma)
        self.gamma = gamma

    @property
    def alpha(self) -> Tensor | None:
        """The class weights, by the paper's name."""
        return self.weight

    def head_losses(self, odds: Heads, label: Heads) -> Float[Tensor, "b h"]:
        """Cross entropy, each class's term times (1 - p)^gamma."""
        focus = (self.gamma * F.logsigmoid(-odds)).exp()
        return -(self.weighted(label) * focus * F.logsigmoid(odds)).sum(dim=2)
