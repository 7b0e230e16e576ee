"""The device that a network runs on, from its name, checked before any work is done."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hilum.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device of a name: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: If the name is none of these, or this machine has no such device.
    """
    kind, colon, number = name.partition(":")
    known = kind in ("auto", "cpu", "cuda", "mps") and (not colon or (kind == "cuda" and number.isdigit()))
    if not known:
        msg = f"device must be auto, cpu, cuda, cuda:N or mps, got {name}"
        raise ConfigError(msg)
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        msg = f"device is {name}, but this machine has none"
        raise ConfigError(msg)
    return torch.device(name)


def tensor_like(array: Shaped[np.ndarray, "*shape"], like: Tensor) -> Float[Tensor, "*shape"]:
    """An array as a tensor of another's type and on its device.

    The type comes first: Apple's MPS has no float64, so that none may be moved there.
    """
    return torch.from_numpy(array).to(like.dtype).to(like.device)
