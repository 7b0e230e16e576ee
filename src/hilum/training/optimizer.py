"""Makes the optimizer, with a learning rate for each part of the network."""

from typing import Any

import torch
from torch import nn

from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.freezing import parts
from hilum.modelling.weights.matching import WeightsReport
from hilum.settings.run import TrainingConfig

_FUSED = ("cpu", "cuda")
"""Devices with fused optimizers in PyTorch; on a CPU these need weight and gradient in the same memory layout, so
weights stay contiguous."""


def fresh_but_frozen(network: ResNet3D, number: int, report: WeightsReport) -> list[str]:
    """Names of tensors, with running statistics, that would be frozen but were not loaded from the file."""
    own = {id(t) for part in parts(network)[:number] for t in part.state_dict(keep_vars=True).values()}
    frozen = {name for name, t in network.state_dict(keep_vars=True).items() if id(t) in own}
    return [name for name in report.missing if name in frozen]


def make_optimizer(
    settings: TrainingConfig, network: ResNet3D, device: torch.device, head: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Make the optimizer of the unfrozen parameters; each part's rate is that of the next part times ``lr_decay``.

    Discriminative rates by stage, after Howard and Ruder 2018 (arXiv:1801.06146). The last group is the head.

    Args:
        settings: Kind, rates and weight decay.
        network: The network of the run.
        device: Device of the training.
        head: The auxiliary head, which learns at the rate of the network's own.
    """
    groups = [[p for p in part.parameters() if p.requires_grad] for part in parts(network)]
    groups[-1] += [] if head is None else list(head.parameters())
    rates = [settings.lr * settings.lr_decay**below for below in range(len(groups))][::-1]
    given = [{"params": group, "lr": lr} for group, lr in zip(groups, rates, strict=True) if group]
    if settings.lr_decay == 1:  # a single group is faster
        given = [{"params": [p for group in groups for p in group], "lr": settings.lr}]
    same: dict[str, Any] = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "fused": device.type in _FUSED,
    }
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(given, **same)
        case "adamw":
            return torch.optim.AdamW(given, **same)
        case "sgd":
            return torch.optim.SGD(given, momentum=settings.momentum, nesterov=settings.momentum > 0, **same)
