"""The weights that are validated and kept: averaged if set so, and with batch norm statistics of their own.

Batch norm's running statistics are a mean over some ten steps, while the weights changed. In an epoch of few steps they
fit no weights at all, least after fast steps, and the validation loss jumps by a factor of ten and more. Recomputed for
the weights as they are (precise batch norm: Wu and Johnson 2021, arXiv:2105.07576), they do not.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hilum.cohorts.dataset import CohortDataset, to_float
from hilum.modelling.input import model_input
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.freezing import train_what_learns
from hilum.randomness import generator
from hilum.settings.run import RunConfig

_MOST_CASES = 256
"""Training cases from which statistics are recomputed: each brings thousands of voxels (rule of thumb)."""


_UPDATES = 8
"""Times that the average is updated within the steps that it spans: more often costs time, and smooths no further."""


class KeptWeights:
    """A copy of the network with the weights that are validated, and kept if they are the best.

    Args:
        network: The network in training, on its device.
        config: All settings.
        dataset: The training cases.
        steps_per_epoch: Optimizer steps of an epoch.

    Attributes:
        averaged: The copy; its ``n_averaged`` counts the updates.
    """

    def __init__(self, network: ResNet3D, config: RunConfig, dataset: CohortDataset, steps_per_epoch: int) -> None:
        settings = config.training
        self.source = network
        self.config = config
        self.dataset = dataset
        self.steps_per_epoch = steps_per_epoch
        span = settings.ema_epochs * steps_per_epoch
        self.every = max(1, int(span / _UPDATES))
        self.decay = math.exp(-self.every / span) if span else 0.0
        self.averaged = AveragedModel(network, multi_avg_fn=self._average)

    @property
    def network(self) -> ResNet3D:
        """The copy of the network."""
        return cast("ResNet3D", self.averaged.module)

    def after_step(self, step: int) -> None:
        """Follow a step of the optimizer, of this number within its epoch; the last of an epoch always counts."""
        if self.decay and (self.steps_per_epoch - step) % self.every == 0:
            self.averaged.update_parameters(self.source)

    def after_epoch(self) -> None:
        """Take over the weights of the last step, if they are not averaged, and recompute the statistics."""
        if not self.decay:
            self.averaged.update_parameters(self.source)
        if self.config.training.norm_statistics == "recomputed":
            self._recompute()

    def _average(self, kept: Any, new: Any, steps: Tensor | int) -> None:
        """Move the kept weights towards new ones: the mean of all updates while few, then exponentially."""
        torch._foreach_lerp_(kept, new, max(1 - self.decay, 1 / (1 + float(steps))))

    @torch.no_grad()
    def _recompute(self) -> None:
        """Set means and variances of the norms that learn to those of training cases, without augmentation."""
        network = self.network
        train_what_learns(network)
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d) and m.training]
        network.eval()
        if not norms:
            return
        usual = norms[0].momentum
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        device = next(network.parameters()).device
        in_bf16 = self.config.speed.precision == "bf16"  # as it is trained and validated
        for hu in plain_batches(self.dataset, self.config, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
                network.forward_features(model_input(hu, self.config.recipe.windows))
        for norm in norms:
            norm.eval()
            norm.momentum = usual


def plain_batches(
    dataset: CohortDataset, config: RunConfig, device: torch.device
) -> Iterator[Float[Tensor, "b c z y x"]]:
    """Batches of up to 256 training cases in HU, the same each time, without augmentation."""
    chosen = generator(config.training.seed, "norm statistics").permutation(len(dataset))[:_MOST_CASES]
    for places in np.array_split(chosen, math.ceil(len(chosen) / config.at_once(config.training.batch_size))):
        samples = [dataset[int(place), 0, 0] for place in places]  # with sub_volumes a grid, as in training
        yield to_float(torch.stack([sample["hu"] for sample in samples]), device)
