"""Windows and scales HU to the input of the network, on the device; the same in training and prediction."""

import torch
from jaxtyping import Float
from torch import Tensor

from hilum.settings.recipe import Range


def model_input(x: Float[Tensor, "b k z y x"], windows_hu: tuple[Range, ...]) -> Float[Tensor, "b c z y x"]:
    """One channel for each window, scaled and clipped to [0, 1]; then the further channels, unchanged.

    Args:
        x: HU, then the lungs if the recipe asks for them.
        windows_hu: HU of black and of white.
    """
    hu = x[:, :1]
    channels = [((hu - low) / (high - low)).clamp(0, 1) for low, high in windows_hu]
    alone = len(channels) == 1 and x.shape[1] == 1  # nothing to join: a copy less in each step
    return channels[0] if alone else torch.cat([*channels, x[:, 1:]], dim=1)
