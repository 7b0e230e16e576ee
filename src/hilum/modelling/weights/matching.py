"""Loads weights of any origin into a network, and reports which tensors fit, which do not, and why."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Size, Tensor
from torch.nn import functional as F

from hilum.errors import CheckpointError
from hilum.modelling.resnet import DEPTHS, BasicBlock3D, Bottleneck3D, ResNet3D
from hilum.modelling.weights.file import read_weights

_STATISTICS = ("running_mean", "running_var")

_INFLATED = "inflated along z, repeated and divided by the kernel's depth"

_NOTES = {
    "MedicalNet": "MedicalNet dilates its last two stages, this network strides: the same weights see a coarser grid",
    "torchvision video": "r3d_18 strides (1, 2, 2) in its stem and does not pool; a full stem pools: its stages see "
    "a coarser grid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsReport:
    """What happened to a file's tensors, by the network's names; counters of batch norms are left out.

    Attributes:
        source: The project that wrote the file, recognised by names and shapes.
        holds: A description of the network in it.
        matched: Tensors that are loaded unchanged.
        changed: Tensors that are loaded after a change, and the change.
        skipped: Tensors that are not loaded, by the file's names, and the reason.
        missing: Tensors of the network that are not in the file: they keep their values.
        notes: Differences to the network for which the weights were trained.
    """

    source: str
    holds: str
    matched: tuple[str, ...]
    changed: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, Any]:
        """Source and numbers of tensors, for a training card."""
        numbers = {name: len(getattr(self, name)) for name in ("matched", "changed", "skipped", "missing")}
        return {"source": self.source, "holds": self.holds, **numbers}

    def __str__(self) -> str:
        lines = [f"weights of {self.source}, a {self.holds}", f"{len(self.matched)} tensors as they are"]
        for verb, pairs in (("changed", self.changed), ("skipped", self.skipped)):
            by_reason = {reason: [name for name, why in pairs if why == reason] for _, reason in pairs}
            lines += [f"{verb} {_several(names)}: {reason}" for reason, names in by_reason.items()]
        lines += [f"fresh {_several(list(self.missing))}"] if self.missing else []
        return "\n  ".join([*lines, *self.notes])


@dataclass(frozen=True, slots=True)
class _Structure:
    """The structure of the network that a state dict belongs to."""

    depth: int | tuple[int, ...]
    width: int
    shortcut: Literal["A", "B"]

    def __str__(self) -> str:
        name = f"ResNet-{self.depth}" if isinstance(self.depth, int) else f"ResNet with stages of {self.depth} blocks"
        return f"{name} of width {self.width}, shortcut {self.shortcut}"

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "_Structure":
        stages = [[int(m[1]) for name in tensors if (m := re.match(rf"layer{i}\.(\d+)\.", name))] for i in range(1, 5)]
        blocks = tuple(max(numbers, default=-1) + 1 for numbers in stages)
        block = Bottleneck3D if "layer1.0.conv3.weight" in tensors else BasicBlock3D
        depth = next((depth for depth, table in DEPTHS.items() if table == (block, blocks)), blocks)
        projects = any(re.match(r"layer[2-4]\.0\.downsample\.", name) for name in tensors)
        return cls(depth, len(tensors["layer1.0.conv1.weight"]), "B" if projects else "A")


def load_weights(network: ResNet3D, path: str | Path) -> WeightsReport:
    """Load a file's weights into a network.

    It takes Hilum's model folders and weights, ResNets of the tutorial, MedicalNet and MONAI, torchvision's video
    ``r3d_18``, and ResNets for 2D images, which are inflated: repeated along z and divided by the kernel's depth
    (Carreira 2017, arXiv:1705.07750).

    Args:
        network: A network of the same depth, width and shortcut as the file's.
        path: A model folder, .safetensors, or a file of ``torch.save`` (.pth, .pt, .pth.tar); no code in it is run.

    Raises:
        CheckpointError: If the file cannot be read, or its residual layers are not those of the network, which is
            unchanged then.
    """
    tensors, report = matched_weights(network, path)
    network.load_state_dict(network.state_dict() | tensors)  # copies into the existing, contiguous memory
    return report


def matched_weights(network: ResNet3D, path: str | Path) -> tuple[dict[str, Tensor], WeightsReport]:
    """The tensors that ``load_weights`` loads, and its report; the network may be on the meta device.

    Raises:
        CheckpointError: As ``load_weights``.
    """
    path = Path(path)
    found = read_weights(path)
    fitting = _Fitting(found.tensors, network, path)
    own, theirs = _Structure.of(fitting.wanted), _Structure.of(fitting.inner)
    differ = [
        f"model.{name} is {getattr(own, name)}"
        for name in ("depth", "width", "shortcut")
        if getattr(own, name) != getattr(theirs, name)
    ]
    if differ:
        msg = f"holds a {theirs}; {', '.join(differ)}"
        raise CheckpointError(msg, path=path)
    fitting.fit()
    done = {name for name, _ in fitting.changed}
    report = WeightsReport(
        source=found.source,
        holds=str(theirs),
        matched=tuple(name for name in fitting.tensors if name not in done),
        changed=tuple(fitting.changed),
        skipped=(*fitting.skipped, *((name, "beside the network") for name in found.outside)),
        missing=tuple(name for name in fitting.wanted if name not in fitting.tensors),
        notes=(_NOTES[found.source],) if found.source in _NOTES else (),
    )
    return fitting.tensors, report


class _Fitting:
    """Finds for each tensor of a file its place in the network, or the reason why it has none."""

    def __init__(self, given: dict[str, Tensor], network: ResNet3D, path: Path) -> None:
        self.path = path
        self.wanted = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
        self.inner = {name: t for name, t in given.items() if not name.endswith("num_batches_tracked")}
        self.tensors: dict[str, Tensor] = {}
        self.changed: list[tuple[str, str]] = []
        self.skipped: list[tuple[str, str]] = []

    def fit(self) -> None:
        for prefixes, reason in ((("conv1.", "bn1."), self._stem()), (("fc.",), self._head())):
            self.skipped += [(name, reason) for name in self.inner if reason and name.startswith(prefixes)]
        done = {name for name, _ in self.skipped} | set(self.tensors)
        for name in self.inner:
            if name not in done and name not in self.tensors:
                self._fit_one(name)
        for name in self.wanted:
            is_optional = ".se." in name or name.endswith(_STATISTICS)
            if name.startswith("layer") and name not in self.tensors and not is_optional:
                self._stop(f"holds no {name}, which this network has")
        for name, tensor in self.tensors.items():
            if not tensor.isfinite().all():
                self._stop(f"must hold finite real numbers, {name} has others")
            if name.endswith("running_var") and (tensor < 0).any():
                self._stop(f"must hold variances of at least 0, {name} has {tensor.min().item():g}")

    def _real(self, name: str) -> Tensor:
        """A tensor of the file as float32."""
        tensor = self.inner[name]
        if tensor.is_meta:
            self._stop(f"holds {name} without its values: it was saved from PyTorch's meta device")
        if not tensor.is_floating_point():
            self._stop(f"must hold finite real numbers, {name} has others")
        return tensor.float()

    def _fit_one(self, name: str) -> None:
        if name in self.wanted:
            tensor, wanted = self._real(name), self.wanted[name].shape
            if tensor.ndim == 4 and len(wanted) == 5:
                tensor = _inflated(tensor, wanted[2])
                self.changed.append((name, _INFLATED))
            if tensor.shape != wanted:
                self._stop(f"holds {name} of shape {tuple(tensor.shape)}, this network's is {tuple(wanted)}")
            self.tensors[name] = tensor
        elif name.endswith(_STATISTICS):
            self.skipped.append((name, "this network's norm keeps no running statistics"))
        elif name.endswith(".bias") and self._is_convolution(name.removesuffix("bias") + "weight"):
            self._fold_bias(name)
        elif name.startswith("layer"):
            self._stop(f"holds {name}, for which this network has no place")
        else:
            self.skipped.append((name, "of another head, or of no network"))

    def _is_convolution(self, name: str) -> bool:
        return name in self.inner and self.inner[name].ndim in (4, 5)

    def _fold_bias(self, name: str) -> None:
        """Subtract a convolution's bias from the running mean of its batch norm, which is equivalent."""
        module = name.removesuffix(".bias")
        norm = f"{module[:-1]}1" if module.endswith("downsample.0") else re.sub(r"conv(\d)$", r"bn\1", module)
        mean = f"{norm}.running_mean"
        shapes = {self.inner[name].shape, *(held[mean].shape for held in (self.inner, self.wanted) if mean in held)}
        if mean not in self.inner or mean not in self.wanted or len(shapes) > 1:
            self.skipped.append((name, "this network's convolutions have no bias, nor a running mean to take it"))
            return
        self.tensors[mean] = self._real(mean) - self._real(name)
        self.changed.append((mean, "less the bias of the convolution before it"))

    def _stem(self) -> str:
        """Fit the first convolution; returns the reason if that is impossible."""
        name = "conv1.weight"
        if name not in self.inner or self.inner[name].ndim not in (4, 5):
            return "the file has no first convolution"
        weight, wanted, how = self._real(name), self.wanted[name].shape, []
        given = weight.shape[2:]
        if weight.numel() == 0:
            self._stop(f"holds {name} of shape {tuple(weight.shape)}, this network's is {tuple(wanted)}")
        if weight.ndim == 4:
            weight = _inflated(weight, wanted[2])
            how.append(_INFLATED)
        kernel, room = weight.shape[2:], wanted[2:]
        if kernel[1:] != room[1:] or kernel[0] > room[0]:
            return f"its stem's kernel is {_times(given)}, this network's {_times(room)}"
        if kernel[0] < room[0]:
            before = (room[0] - kernel[0]) // 2
            weight = F.pad(weight, (0, 0, 0, 0, before, room[0] - kernel[0] - before))
            how.append(f"a kernel of {_times(kernel)} within zeros of {_times(room)}, which computes the same")
        theirs, ours = weight.shape[1], wanted[1]
        if theirs != ours:
            if theirs > 1:
                how.append(f"{theirs} channels summed")
            if ours > 1:
                how.append(f"one channel repeated {ours} times and divided by {ours}")
            weight = weight.sum(dim=1, keepdim=True).expand(-1, ours, -1, -1, -1) / ours
        if weight.shape != wanted:
            self._stop(f"holds {name} of shape {tuple(self.inner[name].shape)}, this network's is {tuple(wanted)}")
        self.tensors[name] = weight.contiguous()
        if how:
            self.changed.append((name, "; ".join(how)))
        return ""

    def _head(self) -> str:
        """The reason why the last layer cannot be loaded, if there is one."""
        names = ("fc.weight", "fc.bias")
        held = [self.inner[name].shape for name in names if name in self.inner]
        wanted = [self.wanted[name].shape for name in names]
        if not held or held == wanted:
            return ""
        if len(held) == 1:
            absent = next(name for name in names if name not in self.inner)
            return f"the file has no {absent}, and a head is loaded whole"
        if len(held[0]) == 2 and held[0][0] != wanted[0][0]:
            return f"of {held[0][0]} classes, this network has {wanted[0][0]}"
        return f"of shapes {_shapes(held)}, this network's are {_shapes(wanted)}"

    def _stop(self, reason: str) -> None:
        raise CheckpointError(reason, path=self.path)


def _inflated(weight: Tensor, depth: int) -> Tensor:
    """A 3D kernel that gives on volumes that are constant along z what the 2D kernel gives on the image."""
    return weight.float()[:, :, None].expand(-1, -1, depth, -1, -1) / depth


def _times(kernel: Size) -> str:
    return "x".join(map(str, kernel))


def _shapes(shapes: list[Size]) -> str:
    return " and ".join(str(tuple(shape)) for shape in shapes)


def _several(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
