"""The optimizer: the network part by part, each at its own rate."""

import torch

from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.freezing import parts
from hilum.modelling.weights.matching import WeightsReport
from hilum.settings.run import TrainingConfig

_FUSED = ("cpu", "cuda")
"""Devices on which PyTorch's optimizers take one step for all parameters; on a CPU it must find weight and gradient
laid out alike, so weights stay contiguous."""


def fresh_but_frozen(network: ResNet3D, number: int, report: WeightsReport) -> list[str]:
    """Names of tensors that a file did not bring and that would stay as they were made: running statistics too."""
    own = {id(t) for part in parts(network)[:number] for t in part.state_dict(keep_vars=True).values()}
    frozen = {name for name, t in network.state_dict(keep_vars=True).items() if id(t) in own}
    return [name for name in report.missing if name in frozen]


def make_optimizer(settings: TrainingConfig, network: ResNet3D, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of what is not frozen; the rate of each part is that of the next one times ``lr_decay``.

    Discriminative rates after Howard and Ruder 2018 (arXiv:1801.06146), by stage. The last group is the head's.

    Args:
        settings: Its kind, rates and weight decay.
        network: Of the run.
        device: Where it will be trained.
    """
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    groups = [[p for p in part.parameters() if p.requires_grad] for part in parts(network)]
    rates = [settings.lr * settings.lr_decay**below for below in range(len(groups))][::-1]
    given = [{"params": group, "lr": lr} for group, lr in zip(groups, rates, strict=True) if group]
    if settings.lr_decay == 1:  # one group is stepped at once
        given = [{"params": [p for group in groups for p in group], "lr": settings.lr}]
    return kind(given, lr=settings.lr, weight_decay=settings.weight_decay, fused=device.type in _FUSED)
