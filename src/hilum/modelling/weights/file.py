"""Reads weights of any origin as tensors with this network's names, without running code, and writes tensors."""

import errno
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what PyTorch raises where a file holds code
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hilum.errors import CheckpointError
from hilum.files import new_file
from hilum.modelling.memory import within_memory
from hilum.modelling.weights.foreign import not_weights

_FOLDERS_FILE = "weights.safetensors"
"""The name of the weights in a model folder."""

_FIRST = re.compile(r"^(.*?)layer1\.0\.conv1\.(?:0\.)?weight$")
"""A weight that every ResNet has; its prefix is the prefix of all names of the network."""

_ADDRESS = re.compile(r"(?:^|/)([a-z][a-z0-9+]+):/+(.+)$")
"""An address that was taken for a path: it has lost a slash, and a folder may have been put before it."""

_VIDEO = (
    (r"^stem\.0\.", "conv1."),
    (r"^stem\.1\.", "bn1."),
    (r"conv(\d)\.0\.", r"conv\1."),
    (r"conv(\d)\.1\.", r"bn\1."),
)
"""Names in torchvision's video networks, and ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """The content of a file of weights.

    Attributes:
        tensors: Tensors of the network, by this network's names.
        outside: Names of tensors outside the network, such as the state of an optimizer.
        source: The project that wrote it, recognised by names and shapes.
    """

    tensors: dict[str, Tensor]
    outside: tuple[str, ...]
    source: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, which replaces an older one only when it is complete.

    Raises:
        HilumError: If it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(path) as new:
        with new.open("xb") as file:  # safetensors replaces it by a file that only its owner can read
            rights = os.fstat(file.fileno()).st_mode & 0o777
        try:
            save_file(plain, new, metadata)  # from memory to disk, without a copy
            new.chmod(rights)
        except SafetensorError as exc:
            raise OSError(errno.EIO, str(exc)) from exc


def read_weights(path: Path) -> WeightsFile:
    """The tensors of the one ResNet in a file, or in Hilum's model folder.

    Raises:
        CheckpointError: If it cannot be read, or does not hold exactly one ResNet.
    """
    return _recognised(_read(path), path)


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; those in nested dictionaries get dotted names."""
    file = path / _FOLDERS_FILE if path.is_dir() else path
    cause: Exception | None = None
    try:
        what = not_weights(file)
        if not what:
            advice = "give weights without the state of an optimizer, or free memory"
            with within_memory(f"reading {file}", advice), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch, about old kinds of files and tensors
                if file.suffix == ".safetensors":
                    return dict(load_file(file))
                return dict(_flat(torch.load(file, map_location="cpu", weights_only=True), ""))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise CheckpointError(_not_there(path, file)) from exc
    except (OSError, SafetensorError) as exc:
        what, cause = getattr(exc, "strerror", None) or str(exc).splitlines()[0], exc
    except UnpicklingError as exc:
        cause = exc
        what = "it is damaged, or holds more than tensors and plain values, and code is not run"
    except (EOFError, RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        cause = exc
        what = "it is damaged or cut off; fetch it again"  # PyTorch's message advises to run the code in it
    msg = f"cannot be loaded: {what}"
    raise CheckpointError(msg, path=file) from cause


def _not_there(path: Path, file: Path) -> str:
    address = _ADDRESS.search(path.as_posix())
    if address:
        return f"{address[1]}://{address[2]} is an address, and weights must be a file: nothing is downloaded"
    if (path / "model" / _FOLDERS_FILE).is_file():
        return f"there are no weights {file}; {path} is a run folder, its weights are {path / 'model'}"
    return f"there are no weights {file}"


def _flat(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))


def _recognised(tensors: dict[str, Tensor], path: Path) -> WeightsFile:
    prefixes = sorted({m[1] for name in tensors if (m := _FIRST.match(name))})
    if not prefixes:
        some = f", such as {min(tensors)}," if any(tensors) else ""
        msg = f"holds no ResNet: none of its {len(tensors)} tensors{some} is a layer1.0.conv1.weight"
        raise CheckpointError(msg, path=path)
    if len(prefixes) > 1:
        msg = f"holds {len(prefixes)} networks, by the names {', '.join(map(repr, prefixes))}; give one alone"
        raise CheckpointError(msg, path=path)
    prefix = prefixes[0]
    inner = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    outside = tuple(name for name in tensors if not name.startswith(prefix))
    is_video = "layer1.0.conv1.0.weight" in inner
    if is_video:
        for old, new in _VIDEO:
            inner = {re.sub(old, new, name): t for name, t in inner.items()}
    first = inner["layer1.0.conv1.weight"].shape
    if len(first) not in (4, 5):
        msg = f"must hold convolutions in 2D or 3D, its layer1.0.conv1.weight has shape {tuple(first)}"
        raise CheckpointError(msg, path=path)
    is_grey = "conv1.weight" in inner and inner["conv1.weight"].shape[1:2] == (1,)
    if is_video:
        source = "torchvision video"
    elif len(first) == 4:
        source = "a ResNet for 2D images"
    elif path.is_dir() or (path.name == _FOLDERS_FILE and path.with_name("model.json").exists()):
        source = "Hilum"
    elif any(name.endswith("downsample.0.bias") for name in inner):
        source = "MONAI"
    elif (
        is_grey and "fc.weight" not in inner and ("module." in prefix or any(n.startswith("conv_seg.") for n in inner))
    ):
        source = "MedicalNet"
    else:
        source = "the tutorial or Hilum" if not prefix and is_grey else "a 3D ResNet of the usual names"
    return WeightsFile(tensors=inner, outside=outside, source=source)
