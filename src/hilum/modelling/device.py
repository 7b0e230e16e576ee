"""Finds the device of a name, and moves arrays to it."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hilum.errors import ConfigError, require


def pick_device(name: str) -> torch.device:
    """The device named auto (a GPU if there is one), cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: If the name is another one, or this machine has no such device.
    """
    kind, colon, number = name.partition(":")
    known = kind in ("auto", "cpu", "cuda", "mps") and (not colon or (kind == "cuda" and number.isdigit()))
    require(known, "device", "auto, cpu, cuda, cuda:N or mps", name)
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not is_there[kind]:
        msg = f"device is {name}, but this machine has none"
        raise ConfigError(msg)
    return torch.device(name)


def tensor_like(array: Shaped[np.ndarray, "*shape"], like: Tensor) -> Float[Tensor, "*shape"]:
    """An array as a tensor of the type and on the device of another tensor.

    It is converted first and moved then, because Apple's MPS has no float64.
    """
    return torch.from_numpy(array).to(like.dtype).to(like.device)
