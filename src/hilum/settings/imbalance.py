"""Settings against class imbalance: the loss, the sampling of cases and the second stage; no torch."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hilum.errors import require

LossName: TypeAlias = Literal[
    "auto",
    "cross-entropy",
    "focal",
    "poly1",
    "asymmetric",
    "logit-adjusted",
    "ldam",
    "dice",
    "tversky",
    "combined",
]
SamplingName: TypeAlias = Literal["none", "over", "under", "combined", "balanced", "progressive"]
WeightsName: TypeAlias = Literal["auto", "none", "inverse", "sqrt", "effective"]
RetrainName: TypeAlias = Literal["none", "balanced", "smote", "borderline-smote", "adasyn"]

OF_THE_BATCH = ("dice", "tversky", "combined")
"""Losses that are not a mean over cases: they need all cases of a batch at once."""

AT_THE_PROBABILITY = ("cross-entropy", "logit-adjusted")
"""Proper losses: smallest at the true probabilities under the class shares of the training cases."""

WEIGHTED = ("cross-entropy", "focal", "poly1", "ldam", "combined")
"""Losses that take class weights; the others have their own means against imbalance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The loss that training minimises."""

    name: LossName = "cross-entropy"
    """auto: by the share of the rarest class in the training part, as hilum advise says; class_weights is chosen with
    it unless it is given, and then kept."""

    class_weights: WeightsName = "auto"
    """Weight of each class, from the training labels: 1/n, 1/sqrt(n) or effective number (Cui 2019). auto: 1/n for
    cross entropy, focal and poly1 without sampling by class, else none."""

    label_smoothing: float = 0.1
    """Share of each training label that cross entropy and logit adjustment spread evenly over the classes (Szegedy
    2016): a network that knows its few cases by heart stays unsure of the others. The other losses have none."""

    auxiliary: float = 0.3
    """Weight of the auxiliary targets (columns.auxiliary) beside the label."""

    beta: float = 0.999
    """Parameter of the effective number: near 1 the weights are 1/n, at 0 all are equal."""

    gamma: float = 2.0
    """Focusing of the focal loss (Lin 2017); 0 is cross entropy."""

    gamma_pos: float = 1.0
    """Focusing of the asymmetric loss (Ridnik 2021) on cases with the label."""

    gamma_neg: float = 4.0
    """Focusing of the asymmetric loss on cases without the label."""

    clip: float = 0.05
    """Probability below which a negative costs nothing in the asymmetric loss."""

    smooth: float = 1.0
    """Added to numerator and denominator of Dice and Tversky."""

    tversky_alpha: float = 0.3
    """Cost of false positives in Tversky (Salehi 2017)."""

    tversky_beta: float = 0.7
    """Cost of false negatives in Tversky; above tversky_alpha it favours recall."""

    dice_share: float = 0.5
    """Share of Dice in the combined loss; the rest is focal."""

    tau: float = 1.0
    """Strength of the logit adjustment (Menon 2021)."""

    max_margin: float = 0.5
    """Margin of the rarest class in LDAM (Cao 2019)."""

    scale: float = 30.0
    """Factor of the logits in LDAM."""

    epsilon: float = 1.0
    """Weight of the first polynomial term in poly1 (Leng 2022)."""

    def __post_init__(self) -> None:
        for name in ("gamma", "gamma_pos", "gamma_neg", "tau", "max_margin"):
            require(0 <= getattr(self, name) < math.inf, f"loss.{name}", "at least 0", getattr(self, name))
        for name in ("smooth", "scale"):
            require(0 < getattr(self, name) < math.inf, f"loss.{name}", "positive", getattr(self, name))
        require(0 < self.auxiliary < math.inf, "loss.auxiliary", "positive", self.auxiliary)
        for name in ("beta", "clip", "label_smoothing"):
            require(0 <= getattr(self, name) < 1, f"loss.{name}", "at least 0 and below 1", getattr(self, name))
        for name in ("tversky_alpha", "tversky_beta", "dice_share"):
            require(0 <= getattr(self, name) <= 1, f"loss.{name}", "between 0 and 1", getattr(self, name))
        require(self.tversky_alpha + self.tversky_beta > 0, "loss.tversky_alpha", "positive where tversky_beta is 0", 0)
        require(-1 <= self.epsilon < math.inf, "loss.epsilon", "at least -1", self.epsilon)
        weighted = self.class_weights in ("auto", "none") or self.name in ("auto", *WEIGHTED)
        require(weighted, "loss.class_weights", f"auto or none with loss.name = {self.name}", self.class_weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How often cases of each class are sampled in an epoch of training; exact, from the seed and the epoch."""

    method: SamplingName = "none"
    """none: each case once. over: every class as often as the commonest. under: as often as the rarest. combined: the
    geometric mean of both. balanced: as many draws as there are cases, the same for each class. progressive: from none
    in the first epoch to balanced in the last (Kang 2020)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The second stage: the last layer is refitted on balanced features of the training cases (Kang 2020)."""

    retrain: RetrainName = "none"
    """none: no second stage. balanced: cases of rare classes weigh more. The others make synthetic features between
    neighbours of different patients."""

    neighbours: int = 5
    """Nearest cases of the same class between which features are made."""

    penalty: float = 1.0
    """L2 penalty on the weights of the new layer, for features of unit variance."""

    def __post_init__(self) -> None:
        require(self.neighbours >= 1, "head.neighbours", "at least 1", self.neighbours)
        require(0 < self.penalty < math.inf, "head.penalty", "positive", self.penalty)
