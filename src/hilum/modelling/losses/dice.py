"""The Dice loss of a whole batch."""

from hilum.modelling.losses.tversky import TverskyLoss


class DiceLoss(TverskyLoss):
    """1 - (2 sum pt + s) / (sum p + sum t + s), the mean over the classes, each over the whole batch.

    Milletari et al. 2016 (arXiv:1606.04797), without squares. With hard labels a perfect prediction costs 0. It follows
    F1, not recall: for recall take ``TverskyLoss`` or a threshold.

    Args:
        smooth: s, on both sides.
        multi_label: Whether each output is a label of its own.
    """

    def __init__(self, smooth: float = 1.0, *, multi_label: bool = False) -> None:
        super().__init__(0.5, 0.5, smooth / 2, multi_label=multi_label)
