"""The base of the losses: log odds of each class, labels as probabilities, and the mean over the cases.

The classes of a model either exclude one another (softmax), or each output is a label of its own (multi-label,
sigmoid). Both are computed as heads of exclusive classes: one head of c classes, or for each label one head of two
classes, absent and present. So each loss is written once.

The log odds of class k are log p_k - log(1 - p_k) = z_k - logsumexp of the other logits. Then log p_k is their
``logsigmoid`` and 1 - p_k the sigmoid of their negative. Both are exact for very sure and for very wrong cases, where
1 - softmax is 0 in float32 and its gradient is lost.
"""

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hilum.arrays import ArrayLike, real
from hilum.errors import CohortError, ConfigError

BatchLogits: TypeAlias = Float[Tensor, "b c"]

Target = Int[Tensor, " b"] | Int[Tensor, "b c"] | Float[Tensor, "b c"]
"""Class indices, or a probability for each class; of a multi-label model 0 and 1, or probabilities, for each label."""

CaseWeight: TypeAlias = Float[Tensor, " b"] | None
"""Weight of each case; None: all the same."""

Heads: TypeAlias = Float[Tensor, "b h k"]
"""A number for each case, head and class of the head: (b, 1, c), or (b, c, 2) of a multi-label model."""

ClassNumbers: TypeAlias = Float[Tensor, "..."] | Int[Tensor, "..."] | ArrayLike
"""A number for each class, (c,); multi-label: without and with each label, (c, 2). A tensor, an array or a list."""


def class_numbers(numbers: ClassNumbers, what: str) -> Float[Tensor, "..."] | Int[Tensor, "..."]:
    """Numbers of the classes as a tensor; arrays and lists become float32, as not every device has float64.

    Raises:
        ConfigError: If they are not numbers.
    """
    if isinstance(numbers, Tensor):
        return numbers
    return torch.from_numpy(real(numbers, what, axes=(1, 2)).astype(np.float32))


def positive_counts(counts: ClassNumbers) -> Float[Tensor, "..."]:
    """Training cases of each class as a tensor of float32.

    Raises:
        CohortError: If a class has none.
    """
    numbers = class_numbers(counts, "counts")
    if not bool((numbers > 0).all()):
        msg = f"every class must have training cases; got counts {numbers.tolist()}"
        raise CohortError(msg)
    return numbers.to(torch.float32)


def as_float(logits: BatchLogits) -> BatchLogits:
    """Logits in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_tensor(values: object, what: str) -> None:
    if not isinstance(values, Tensor):
        msg = f"{what} must be a tensor, got {type(values).__name__}"
        raise ConfigError(msg)


def log_odds(logits: BatchLogits, *, multi_label: bool = False) -> Heads:
    """Log odds of each class of each head, in float32 or wider.

    Args:
        logits: One for each class; multi-label: one for each label.
        multi_label: Whether each output is a label of its own.

    Returns:
        (b, 1, c), or (b, c, 2) of multi-label logits: absent, present.

    Raises:
        ConfigError: If there is only one exclusive class, or the logits are not a tensor.
    """
    _check_tensor(logits, "logits")
    wide = as_float(logits)
    if multi_label:
        return torch.stack([-wide, wide], dim=2)
    num_classes = wide.shape[1]
    if num_classes < 2:
        msg = "logits must have two columns or more, got 1; one output for one label is multi_label = True"
        raise ConfigError(msg)
    if num_classes == 2:
        second = wide[:, 1] - wide[:, 0]
        return torch.stack([-second, second], dim=1)[:, None]
    itself = torch.eye(num_classes, dtype=torch.bool, device=wide.device)
    others = wide[:, None].masked_fill(itself, -torch.inf).logsumexp(dim=2)
    return (wide - others)[:, None]


def label_probs(target: Target, logits: BatchLogits, *, multi_label: bool = False) -> Heads:
    """Labels as a probability for each class of each head, in the type of ``log_odds``.

    Raises:
        ConfigError: If the target is not a tensor, or does not fit the shape of the logits.
    """
    _check_tensor(target, "the target")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if target.shape == logits.shape:
        rows = target.to(logits.device, dtype)
        return torch.stack([1 - rows, rows], dim=2) if multi_label else rows[:, None]
    if target.shape != logits.shape[:1] or multi_label or target.is_floating_point():
        must = f"{tuple(logits.shape)}" + ("" if multi_label else f", or class indices {tuple(logits.shape[:1])}")
        msg = f"the target must be of shape {must}, is {target.dtype} of {tuple(target.shape)}".replace("torch.", "")
        raise ConfigError(msg)
    return F.one_hot(target.long(), logits.shape[1]).to(logits.device, dtype)[:, None]


class Loss(nn.Module, ABC):
    """Base of all losses, called as ``loss(logits, target)``, or with a weight for each case as a third argument.

    The loss of a case, or of a class over a batch, is the mean over the heads.

    Args:
        weight: One weight for each class, (c,); multi-label: absent and present of each label, (c, 2); None: all 1.
        multi_label: Whether each output is a label of its own.
    """

    weight: Tensor | None

    def __init__(self, weight: ClassNumbers | None = None, *, multi_label: bool = False) -> None:
        super().__init__()
        self.multi_label = multi_label
        self.register_buffer("weight", None if weight is None else class_numbers(weight, "class weights"))

    @abstractmethod
    def forward(self, logits: BatchLogits, target: Target, case_weight: CaseWeight = None) -> Float[Tensor, ""]:
        """The loss of a batch."""

    def weights(self, logits: BatchLogits, target: Target, case_weight: CaseWeight = None) -> Float[Tensor, " b"]:
        """How much each case counts in a mean over batches; of the logits only the shape matters."""
        ones = torch.ones(len(logits), device=logits.device)
        return ones if case_weight is None else case_weight.to(ones)


class CaseLoss(Loss):
    """Base of the losses that are a mean over cases: by their class weights where ``by_weight``, else by their number.

    As in PyTorch a mean by class weights is sum(w_y l) / sum(w_y). With soft labels a case counts by the mean of its
    classes' weights under its label.
    """

    by_weight = True

    @abstractmethod
    def head_losses(self, odds: Heads, label: Heads) -> Float[Tensor, "b h"]:
        """Loss of each head of each case, class weights applied."""

    def odds(self, logits: BatchLogits) -> Heads:
        """Log odds of each class in training; some losses shift them."""
        return log_odds(logits, multi_label=self.multi_label)

    def forward(self, logits: BatchLogits, target: Target, case_weight: CaseWeight = None) -> Float[Tensor, ""]:
        """Mean over the cases."""
        losses = self.case_losses(logits, target)
        if case_weight is not None:
            losses = losses * case_weight.to(losses)
        return losses.sum() / self.weights(logits, target, case_weight).to(losses).sum()

    def case_losses(self, logits: BatchLogits, target: Target) -> Float[Tensor, " b"]:
        """Loss of each case, class weights applied, before any mean."""
        odds = self.odds(logits)
        return self.head_losses(odds, label_probs(target, logits, multi_label=self.multi_label)).mean(dim=1)

    def weights(self, logits: BatchLogits, target: Target, case_weight: CaseWeight = None) -> Float[Tensor, " b"]:
        """How much each case counts in the mean."""
        cases = super().weights(logits, target, case_weight)
        if self.weight is None or not self.by_weight:
            return cases
        label = self.weighted(label_probs(target, logits, multi_label=self.multi_label))
        return cases * label.sum(dim=2).mean(dim=1).to(cases)

    def weighted(self, label: Heads) -> Heads:
        """The label times the class weights.

        Raises:
            ConfigError: If there is not one weight for each class.
        """
        if self.weight is None:
            return label
        heads, classes = label.shape[1:]
        must = (heads, classes) if self.multi_label else (classes,)
        if tuple(self.weight.shape) != must:
            msg = f"there must be one weight for each class, of shape {must}, got {tuple(self.weight.shape)}"
            raise ConfigError(msg)
        return label * self.weight.to(label)
