"""HU to what the network sees, on the device: the same windows and scale in training and prediction."""

import torch
from jaxtyping import Float
from torch import Tensor

from hilum.settings.recipe import Range


def model_input(x: Float[Tensor, "b k z y x"], windows_hu: tuple[Range, ...]) -> Float[Tensor, "b c z y x"]:
    """One channel for each window, scaled to [0, 1] and limited to it; then the further channels as they are.

    Args:
        x: HU, then the lungs where the recipe asks for them.
        windows_hu: HU of black and of white.
    """
    hu = x[:, :1]
    return torch.cat([*(((hu - low) / (high - low)).clamp(0, 1) for low, high in windows_hu), x[:, 1:]], dim=1)
