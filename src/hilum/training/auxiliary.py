"""Learns auxiliary targets beside the label, from the same features; nothing of it goes into the model."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from hilum.cohorts.auxiliary_targets import Auxiliary
from hilum.modelling.resnet import ResNet3D


class AuxiliaryHead(nn.Module):
    """A linear layer on the pooled features, with one output for each number and for each class of each target.

    Numbers are learned in units of their standard deviation over the training cases.

    Args:
        targets: The targets.
        num_features: Length of the pooled features.
        values: Values of the training cases.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, targets: tuple[Auxiliary, ...], num_features: int, values: Float64[np.ndarray, "n a"]) -> None:
        super().__init__()
        self.widths = [max(1, len(one.classes)) for one in targets]
        self.fc = nn.Linear(num_features, sum(self.widths))
        known = np.isfinite(values)
        counts = np.maximum(known.sum(0), 1)
        mean = np.where(known, values, 0).sum(0) / counts
        scale = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / counts)
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("scale", torch.from_numpy(np.where(scale > 0, scale, 1.0)).float())

    def forward(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Outputs of all targets, one after another."""
        outputs: Tensor = self.fc(features)
        return outputs

    def loss(
        self, outputs: Float[Tensor, "b k"], values: Float[Tensor, "b a"], *, of: Float[Tensor, "n a"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean over the targets of the mean loss over the cases that have a value: 0 if none has.

        Huber's loss of standardised numbers, cross entropy of classes.

        Args:
            outputs: Outputs of some cases.
            values: Their values.
            of: The values of the whole batch, by whose number of known ones is divided; None: ``values``.
        """
        counts = (values if of is None else of).isfinite().sum(dim=0).clamp(min=1)
        losses = []
        parts = torch.split(outputs, self.widths, dim=1)
        columns = zip(self.widths, parts, values.T, self.mean, self.scale, counts, strict=True)
        for width, output, value, mean, scale, count in columns:
            known = value.isfinite()
            if not known.any():
                losses.append(output.sum() * 0)
            elif width == 1:
                target = (value[known] - mean) / scale
                losses.append(F.smooth_l1_loss(output[known, 0], target, reduction="sum") / count)
            else:
                losses.append(F.cross_entropy(output[known], value[known].long(), reduction="sum") / count)
        return torch.stack(losses).mean()


class WithAuxiliary(nn.Module):
    """A network and its auxiliary head; gives logits, and the outputs of the head.

    Args:
        network: The network.
        head: The head.
    """

    def __init__(self, network: ResNet3D, head: AuxiliaryHead) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, x: Float[Tensor, "b c z y x"]) -> tuple[Tensor, Tensor]:
        """Logits, and outputs for the auxiliary targets."""
        network = self.network
        features = network.forward_head(network.forward_features(x), network.measured(x), pre_logits=True)
        with torch.autocast(x.device.type, enabled=False):
            return self.network.logits_of(features), self.head(features)
