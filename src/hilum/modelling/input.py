"""HU to what the network sees, on the device: the same windows and scale in training and prediction."""

import torch
from jaxtyping import Float
from torch import Tensor

from hilum.config import Range


def model_input(hu: Float[Tensor, "b 1 z y x"], windows_hu: tuple[Range, ...]) -> Float[Tensor, "b c z y x"]:
    """One channel for each window, scaled to [0, 1] and limited to it."""
    return torch.cat([((hu - low) / (high - low)).clamp(0, 1) for low, high in windows_hu], dim=1)
