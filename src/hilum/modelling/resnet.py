"""The 3D ResNet family: a stem, four stages of residual blocks, pooling and one linear layer.

After He et al. 2016 (arXiv:1512.03385), inflated to three dimensions. Layer names are those of torchvision and the
tutorial, so that public weights load unchanged.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hilum.errors import require
from hilum.modelling.convolution import Conv3D
from hilum.modelling.measures import NoduleMeasures


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOptions:
    """Options of a residual block; only ``skip`` differs between the blocks of a network.

    Attributes:
        norm: Normalisation, everywhere in the network.
        shortcut: Shortcut where the shape changes. B: a strided 1x1x1 projection. A: every second voxel, and zeros.
        squeeze_excite: Weight the channels of each block (Hu 2018).
        skip: Probability that a case skips the block in training (stochastic depth, Huang 2016).
    """

    norm: Literal["batch", "group", "instance"] = "batch"
    shortcut: Literal["A", "B"] = "B"
    squeeze_excite: bool = False
    skip: float = 0.0


class _Block(nn.Module, ABC):
    """A residual branch, added to its shortcut."""

    expansion: int
    last_norm: str

    def add_shortcut(self, in_planes: int, out_planes: int, stride: int, options: BlockOptions) -> None:
        """Make the rest of the block after its branch, so that weights are in the order of the published files."""
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcite3D(out_planes) if options.squeeze_excite else None
        self.skip = options.skip
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != out_planes:
            self.downsample = (
                nn.Sequential(Conv3D(in_planes, out_planes, 1, stride), _norm(options, out_planes))
                if options.shortcut == "B"
                else ShortcutA(out_planes - in_planes, stride)
            )

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """The features that are added to the shortcut."""

    def forward(self, x: Float[Tensor, "b _ z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """Features of the block."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.branch(x)
        if self.se is not None:
            out = self.se(out)
        if self.training and self.skip:
            kept = torch.rand(len(out), 1, 1, 1, 1, device=out.device) >= self.skip
            out = out * (kept / (1 - self.skip)).to(out.dtype)
        out += identity
        activated: Tensor = self.relu(out)
        return activated


class BasicBlock3D(_Block):
    """Two 3x3x3 convolutions and a shortcut; the first convolution strides."""

    expansion = 1
    last_norm = "bn2"

    def __init__(self, in_planes: int, planes: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        self.conv1 = Conv3D(in_planes, planes, 3, stride)
        self.bn1 = _norm(options, planes)
        self.conv2 = Conv3D(planes, planes, 3)
        self.bn2 = _norm(options, planes)
        self.add_shortcut(in_planes, planes, stride, options)

    def branch(self, x: Tensor) -> Tensor:
        """The features that are added to the shortcut."""
        out = self.relu(self.bn1(self.conv1(x)))
        added: Tensor = self.bn2(self.conv2(out))
        return added


class Bottleneck3D(_Block):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and a shortcut; the middle convolution strides."""

    expansion = 4
    last_norm = "bn3"

    def __init__(self, in_planes: int, planes: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        self.conv1 = Conv3D(in_planes, planes, 1)
        self.bn1 = _norm(options, planes)
        self.conv2 = Conv3D(planes, planes, 3, stride)
        self.bn2 = _norm(options, planes)
        self.conv3 = Conv3D(planes, planes * self.expansion, 1)
        self.bn3 = _norm(options, planes * self.expansion)
        self.add_shortcut(in_planes, planes * self.expansion, stride, options)

    def branch(self, x: Tensor) -> Tensor:
        """The features that are added to the shortcut."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        added: Tensor = self.bn3(self.conv3(out))
        return added


class ShortcutA(nn.Module):
    """Every ``stride``-th voxel, and zeros in the additional channels; it has no parameters."""

    def __init__(self, more_channels: int, stride: int) -> None:
        super().__init__()
        self.more_channels = more_channels
        self.stride = stride

    def forward(self, x: Float[Tensor, "b _ z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """The input on the block's output grid."""
        s = self.stride
        return F.pad(x[:, :, ::s, ::s, ::s], (0, 0, 0, 0, 0, 0, 0, self.more_channels))


class SqueezeExcite3D(nn.Module):
    """Multiplies each channel by a weight from 0 to 1 computed from all channels' means (Hu 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, max(8, channels // reduction))
        self.fc2 = nn.Linear(max(8, channels // reduction), channels)

    def forward(self, x: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b c z y x"]:
        """The weighted channels."""
        weights = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3, 4))))))
        return x * weights.to(x.dtype)[:, :, None, None, None]


class AttentionPool3D(nn.Module):
    """The mean over voxels, weighted by a learned score of each (attention pooling, Ilse 2018, arXiv:1802.04712)."""

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, x: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b c"]:
        """One vector for each case."""
        voxels = x.flatten(2).transpose(1, 2)
        weights = self.score(torch.tanh(self.hidden(voxels))).softmax(dim=1)
        pooled: Tensor = (voxels * weights).sum(dim=1)
        return pooled


DEPTHS: dict[int, tuple[type[BasicBlock3D] | type[Bottleneck3D], tuple[int, int, int, int]]] = {
    10: (BasicBlock3D, (1, 1, 1, 1)),
    18: (BasicBlock3D, (2, 2, 2, 2)),
    34: (BasicBlock3D, (3, 4, 6, 3)),
    50: (Bottleneck3D, (3, 4, 6, 3)),
    101: (Bottleneck3D, (3, 4, 23, 3)),
    152: (Bottleneck3D, (3, 8, 36, 3)),
    200: (Bottleneck3D, (3, 24, 36, 3)),
}
"""The block, and the number of blocks in each stage."""


class ResNet3D(nn.Module):
    """A 3D ResNet classifier.

    Args:
        depth: A key of ``DEPTHS``.
        in_channels: Windows of the recipe, and its further channels.
        num_classes: Outputs.
        width: Channels of the first stage; 64 in the published networks.
        stem: ``full``: 7x7x7 convolution, stride 2, and max pooling. ``small``: 3x3x3, stride 1, no pooling.
        stem_stride: Stride (z, y, x) of the stem's convolution, for anisotropic voxels; None: the stem's own.
        norm: Normalisation, of the stem too.
        shortcut: A or B; see ``BlockOptions``.
        squeeze_excite: Weight the channels of each block.
        dropout: Probability that a pooled feature is dropped in training.
        stochastic_depth: Probability that a case skips the last block in training; earlier ones in proportion.
        pooling: ``average``, or ``attention``: a mean weighted by a learned score.
        zero_init: Start each block as the identity (Goyal et al. 2017).
        measures: Measures of the input that are joined to the pooled features before the last layer; None: none.

    Attributes:
        num_features: Length of the feature vector before the last layer.
        channels_last: Compute with channels innermost in memory.
        checkpointing: Whether training keeps only each block's input and computes the block again for its gradient.

    Raises:
        ConfigError: If an argument has another value than those above.
    """

    def __init__(
        self,
        depth: int = 18,
        in_channels: int = 1,
        num_classes: int = 2,
        *,
        width: int = 64,
        stem: Literal["full", "small"] = "full",
        stem_stride: tuple[int, int, int] | None = None,
        norm: Literal["batch", "group", "instance"] = "batch",
        shortcut: Literal["A", "B"] = "B",
        squeeze_excite: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        pooling: Literal["average", "attention"] = "average",
        zero_init: bool = False,
        measures: NoduleMeasures | None = None,
    ) -> None:
        super().__init__()
        _check(depth=depth, stem=stem, norm=norm, shortcut=shortcut, pooling=pooling)
        for name, number in {"in_channels": in_channels, "num_classes": num_classes, "width": width}.items():
            require(number >= 1, name, "positive", number)
        for name, chance in {"dropout": dropout, "stochastic_depth": stochastic_depth}.items():
            require(0 <= chance < 1, name, "at least 0 and below 1", chance)
        strides = (1, 1, 1) if stem_stride is None else stem_stride
        require(len(strides) == 3 and set(strides) <= {1, 2}, "stem_stride", "three times 1 or 2", stem_stride)
        block, blocks = DEPTHS[depth]
        self.in_channels = in_channels
        self.num_classes = num_classes
        pooled = 8 * width * block.expansion
        self.num_features = pooled + (measures.num_measures if measures is not None else 0)
        self.channels_last = False
        self.checkpointing = False
        full = stem == "full"
        self.conv1 = Conv3D(in_channels, width, 7 if full else 3, stem_stride or (2 if full else 1))
        self.bn1 = _norm(BlockOptions(norm=norm), width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1) if full else nn.Identity()
        in_planes, number = width, 0
        for stage, count in enumerate(blocks):
            layers = nn.Sequential()
            for i in range(count):
                number += 1
                skip = stochastic_depth * number / sum(blocks)
                options = BlockOptions(norm=norm, shortcut=shortcut, squeeze_excite=squeeze_excite, skip=skip)
                layers.append(block(in_planes, width * 2**stage, 2 if stage > 0 and i == 0 else 1, options))
                in_planes = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", layers)
        average = nn.AdaptiveAvgPool3d(1)
        self.avgpool = average if pooling == "average" else AttentionPool3D(pooled)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes)
        self.measures = measures
        for module in self.modules():
            if isinstance(module, nn.Conv3d) and not module.weight.is_meta:  # else PyTorch imports its compiler
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init and isinstance(module, _Block):
                nn.init.zeros_(module.get_parameter(f"{module.last_norm}.weight"))

    def blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, in order."""
        for number in (1, 2, 3, 4):
            yield from self.stage(number)

    def stage(self, number: int) -> nn.Sequential:
        """The residual blocks of a stage, 1 to 4."""
        blocks: nn.Sequential = self.get_submodule(f"layer{number}")  # type: ignore[assignment]
        return blocks

    def forward_features(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """Feature maps of the last stage."""
        shape = f"cases x {self.in_channels} x z x y x x"
        require(x.ndim == 5 and x.shape[1] == self.in_channels, "the input", shape, " x ".join(map(str, x.shape)))
        return self.features_after(self.first_layer(x))

    def first_layer(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """The first convolution alone: more than half of the work on large grids."""
        order = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        convolved: Tensor = self.conv1(x.to(self.conv1.weight.dtype).contiguous(memory_format=order))
        return convolved

    def features_after(self, x: Float[Tensor, "b _ _ _ _"]) -> Float[Tensor, "b c _ _ _"]:
        """Feature maps of the last stage from the output of the first convolution."""
        order = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        x = self.bn1(x.contiguous(memory_format=order))
        with torch.autocast(x.device.type, enabled=False):  # it would pool in fp32, with the same result
            x = self.relu(self.maxpool(x))  # equal to ReLU and then pooling, on an eighth of the voxels
        for block in self.blocks():
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_recomputing, block))
            else:
                x = block(x)
        return x

    def measured(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b m"] | None:
        """The measures of the input; None: the network has none."""
        return None if self.measures is None else self.measures(x)

    def forward_head(
        self, x: Float[Tensor, "b c _ _ _"], measured: Float[Tensor, "b m"] | None = None, *, pre_logits: bool = False
    ) -> Float[Tensor, "b {self.num_classes}"] | Float[Tensor, "b {self.num_features}"]:
        """Logits from feature maps, and from the measures of a network that has them; or the features before them."""
        with torch.autocast(x.device.type, enabled=False):  # cheap, and the logits need all digits
            x = torch.flatten(self.avgpool(x.to(self.fc.weight.dtype)), 1)
            x = x if measured is None else torch.cat([x, measured.to(x.dtype)], dim=1)
            return x if pre_logits else self.logits_of(x)

    def logits_of(self, features: Float[Tensor, "b {self.num_features}"]) -> Float[Tensor, "b {self.num_classes}"]:
        """Logits from the features before the last layer."""
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def forward(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b {self.num_classes}"]:
        """Logits, one for each class."""
        return self.forward_head(self.forward_features(x), self.measured(x))


_KNOWN: dict[str, tuple[Any, ...]] = {
    "depth": tuple(DEPTHS),
    "stem": ("full", "small"),
    "norm": ("batch", "group", "instance"),
    "shortcut": ("A", "B"),
    "pooling": ("average", "attention"),
}


def _check(**given: Any) -> None:
    for name, value in given.items():
        require(value in _KNOWN[name], name, f"one of {', '.join(map(str, _KNOWN[name]))}", repr(value))


def _norm(options: BlockOptions, channels: int) -> nn.Module:
    if options.norm == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    if options.norm == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    return nn.BatchNorm3d(channels)


def _recomputing(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the first and the second computation of a block."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norm must not count a batch twice when a block is computed again: it updates copies of its buffers."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm3d)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


def resnet10_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-10 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(10, num_classes=num_classes, **options)


def resnet18_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-18 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(18, num_classes=num_classes, **options)


def resnet34_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-34 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(34, num_classes=num_classes, **options)


def resnet50_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-50 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(50, num_classes=num_classes, **options)


def resnet101_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-101 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(101, num_classes=num_classes, **options)


def resnet152_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-152 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(152, num_classes=num_classes, **options)


def resnet200_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-200 in 3D; ``options`` are further arguments of ``ResNet3D``, such as ``in_channels`` and ``width``."""
    return ResNet3D(200, num_classes=num_classes, **options)
