"""The focal loss and Dice together."""

from jaxtyping import Float
from torch import Tensor

from hilum.modelling.losses.base import BatchLogits, CaseWeight, ClassNumbers, Loss, Target
from hilum.modelling.losses.dice import DiceLoss
from hilum.modelling.losses.focal import FocalLoss


class CombinedLoss(Loss):
    """weight_focal times the focal loss, over the cases, plus weight_dice times Dice, over the batch.

    Args:
        alpha: Class weights of the focal loss.
        gamma: Its focusing.
        weight_focal: Its weight.
        weight_dice: The weight of Dice.
        smooth: Smoothing term of Dice.
        multi_label: Whether each output is a label of its own.
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

    def forward(self, logits: BatchLogits, target: Target, case_weight: CaseWeight = None) -> Float[Tensor, ""]:
        """The weighted sum of both."""
        focal: Tensor = self.focal(logits, target, case_weight)
        dice: Tensor = self.dice(logits, target, case_weight)
        return self.weight_focal * focal + self.weight_dice * dice
