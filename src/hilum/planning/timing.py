"""Measures the time of a training step on this machine."""

import statistics
import time

import torch
from torch.nn import functional as F

from hilum.modelling.memory import kept_memory
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import apply_speed, autocast
from hilum.modelling.weights.freezing import train_what_learns
from hilum.settings.run import SpeedConfig

_STEPS = 3
_ENOUGH_S = 15.0
"""After this time no further step is begun, if one has been counted."""


def step_seconds(
    network: ResNet3D, size: tuple[int, int, int], cases: int, *, device: torch.device, speed: SpeedConfig
) -> float:
    """The median time in seconds of up to three training steps on random numbers, after one to warm up.

    Forward, backward and optimizer, without loading and augmentation.

    Args:
        network: The network; it is trained, except its frozen parts: pass a copy.
        size: Size of the grid, (z, y, x).
        cases: Number of cases on the device at once.
        device: The device on which it is measured.
        speed: Precision, memory format and the other speed settings.
    """
    seconds = []
    with kept_memory(speed.keep_memory == "on"):
        apply_speed(network, speed)
        network = network.to(device)
        train_what_learns(network)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        x = torch.rand((cases, network.in_channels, *size), device=device)
        target = torch.arange(cases, device=device) % network.num_classes
        for _ in range(1 + _STEPS):
            _wait(device)
            start = time.perf_counter()
            optimizer.zero_grad()
            with autocast(device, speed):
                logits = network(x)
            F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _wait(device)
            seconds.append(time.perf_counter() - start)
            if len(seconds) > 1 and sum(seconds) > _ENOUGH_S:
                break
    return statistics.median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
