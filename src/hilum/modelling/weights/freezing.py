"""Parts of a network, and those of them that stay as their file has them."""

from torch import nn

from hilum.modelling.resnet import ResNet3D

__all__ = ["freeze", "parts", "train_what_learns"]


def parts(network: ResNet3D) -> tuple[nn.ModuleList, ...]:
    """The stem, the four stages and the head: pooling and the last layer."""
    names = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("avgpool", "fc"))
    return tuple(nn.ModuleList(network.get_submodule(name) for name in part) for part in names)


def freeze(network: ResNet3D, number: int) -> None:
    """No gradients for the first parts of a network; before its optimizer is made.

    Args:
        network: Its weights stay where they are.
        number: How many parts: 1 the stem, ... 5 all but the head.
    """
    for part in parts(network)[:number]:
        part.requires_grad_(False)


def train_what_learns(model: nn.Module) -> None:
    """Training mode, but for frozen modules: their norms use the statistics that they have, and keep them."""
    model.train()
    for module in model.modules():
        learns = [p.requires_grad for p in module.parameters()]
        if learns and not any(learns):
            module.eval()
