"""Several networks as one: the mean of their logits."""

from collections.abc import Mapping
from typing import TypeAlias, cast

from jaxtyping import Float
from torch import Tensor, nn

from hilum.errors import require
from hilum.modelling.resnet import ResNet3D


class Ensemble(nn.Module):
    """Networks of the same input and outputs, whose logits are averaged.

    Args:
        members: The networks by name; one at least.

    Attributes:
        in_channels: Channels of the input.
        num_classes: Outputs.

    Raises:
        ConfigError: If there is none, or they differ in input or outputs.
    """

    def __init__(self, members: Mapping[str, ResNet3D]) -> None:
        super().__init__()
        require(len(members) >= 1, "an ensemble", "of one network at least", len(members))
        shapes = {(one.in_channels, one.num_classes) for one in members.values()}
        require(len(shapes) == 1, "the members of an ensemble", "of the same input and outputs", sorted(shapes))
        self.names = tuple(members)
        self.each = nn.ModuleList(members.values())
        ((self.in_channels, self.num_classes),) = shapes

    @property
    def members(self) -> dict[str, ResNet3D]:
        """The networks by name."""
        return {name: cast("ResNet3D", one) for name, one in zip(self.names, self.each, strict=True)}

    def forward(self, x: Float[Tensor, "b {self.in_channels} z y x"]) -> Float[Tensor, "b {self.num_classes}"]:
        """Mean logits."""
        total: Tensor = self.each[0](x).float()
        for one in self.each[1:]:
            total = total + one(x).float()
        return total / len(self.each)


Network: TypeAlias = ResNet3D | Ensemble
"""What a model folder holds."""


def members_of(network: Network) -> tuple[ResNet3D, ...]:
    """The networks of an ensemble, or the network itself."""
    return tuple(network.members.values()) if isinstance(network, Ensemble) else (network,)
