"""The 3D ResNet: a stem, four stages of residual blocks, global pooling and one linear layer.

After He et al. 2016 (arXiv:1512.03385), inflated to three dimensions. Layer names are those of torchvision and the
tutorial, so that public weights load unchanged.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilum.errors import ConfigError

__all__ = ["BasicBlock3D", "Bottleneck3D", "ResNet3D", "resnet18_3d", "resnet34_3d", "resnet50_3d"]


class BasicBlock3D(nn.Module):
    """Two 3x3x3 convolutions and a shortcut; the first convolution strides."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.downsample = _shortcut(in_planes, planes, stride)

    def forward(self, x: Float[Tensor, "b _ z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """Features of the block."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        activated: Tensor = self.relu(out)
        return activated


class Bottleneck3D(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and a shortcut; the middle convolution strides."""

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_planes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_planes, planes * self.expansion, stride)

    def forward(self, x: Float[Tensor, "b _ z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """Features of the block."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        activated: Tensor = self.relu(out)
        return activated


def _shortcut(in_planes: int, planes: int, stride: int) -> nn.Sequential | None:
    """Shortcut B: a strided 1x1x1 projection where the shape changes, else the identity."""
    if stride == 1 and in_planes == planes:
        return None
    return nn.Sequential(nn.Conv3d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm3d(planes))


_DEPTHS: dict[int, tuple[type[BasicBlock3D] | type[Bottleneck3D], tuple[int, int, int, int]]] = {
    10: (BasicBlock3D, (1, 1, 1, 1)),
    18: (BasicBlock3D, (2, 2, 2, 2)),
    34: (BasicBlock3D, (3, 4, 6, 3)),
    50: (Bottleneck3D, (3, 4, 6, 3)),
}


class ResNet3D(nn.Module):
    """A 3D ResNet classifier.

    Args:
        depth: 10, 18, 34 or 50.
        in_channels: Windows of the recipe.
        num_classes: Outputs.
        width: Channels of the first stage; 64 in the published networks.
        stem: ``full``: 7x7x7 convolution, stride 2, and max pooling. ``small``: 3x3x3, stride 1, no pooling.
        dropout: Probability that a pooled feature is dropped in training.
        zero_init_residual: Start each block as the identity (Goyal et al. 2017).

    Attributes:
        num_features: Length of the pooled feature vector.

    Raises:
        ConfigError: If the depth is not in the table.
    """

    def __init__(
        self,
        depth: int = 18,
        in_channels: int = 1,
        num_classes: int = 2,
        *,
        width: int = 64,
        stem: Literal["full", "small"] = "full",
        dropout: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if depth not in _DEPTHS:
            msg = f"depth must be one of {', '.join(map(str, _DEPTHS))}, got {depth}"
            raise ConfigError(msg)
        block, blocks = _DEPTHS[depth]
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.num_features = 8 * width * block.expansion
        full = stem == "full"
        self.conv1 = nn.Conv3d(in_channels, width, 7 if full else 3, 2 if full else 1, 3 if full else 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1) if full else nn.Identity()
        in_planes = width
        for stage, count in enumerate(blocks):
            planes = width * 2**stage
            layers = []
            for i in range(count):
                layers.append(block(in_planes, planes, stride=2 if stage > 0 and i == 0 else 1))
                in_planes = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes)
        self._init_weights(zero_init_residual)

    def _init_weights(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock3D):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck3D):
                nn.init.zeros_(module.bn3.weight)

    def forward_features(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b c _ _ _"]:
        """Feature maps of the last stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def forward_head(
        self, x: Float[Tensor, "b c _ _ _"], *, pre_logits: bool = False
    ) -> Float[Tensor, "b {self.num_classes}"] | Float[Tensor, "b {self.num_features}"]:
        """Logits from feature maps, or the pooled features themselves."""
        x = torch.flatten(self.avgpool(x), 1)
        logits: Tensor = x if pre_logits else self.fc(self.dropout(x))
        return logits

    def forward(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b {self.num_classes}"]:
        """Logits, one for each class."""
        return self.forward_head(self.forward_features(x))


def resnet18_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-18 in 3D."""
    return ResNet3D(18, num_classes=num_classes, **options)


def resnet34_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-34 in 3D."""
    return ResNet3D(34, num_classes=num_classes, **options)


def resnet50_3d(num_classes: int = 2, **options: Any) -> ResNet3D:
    """ResNet-50 in 3D."""
    return ResNet3D(50, num_classes=num_classes, **options)
