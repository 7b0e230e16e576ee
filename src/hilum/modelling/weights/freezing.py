"""The parts of a network, and how some of them are frozen."""

from torch import nn

from hilum.modelling.resnet import ResNet3D


def parts(network: ResNet3D) -> tuple[nn.ModuleList, ...]:
    """The stem, the four stages and the head: pooling and the last layer."""
    names = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("avgpool", "fc"))
    return tuple(nn.ModuleList(network.get_submodule(name) for name in part) for part in names)


def freeze(network: ResNet3D, number: int) -> None:
    """Freeze the first parts of a network: no gradients; call it before the optimizer is made.

    Args:
        network: Its weights stay unchanged.
        number: Number of parts: 1 for the stem, ... 5 for all but the head.
    """
    for part in parts(network)[:number]:
        part.requires_grad_(False)


def train_what_learns(model: nn.Module) -> None:
    """Set training mode, except for frozen modules, whose norms keep using their stored statistics."""
    model.train()
    for module in model.modules():
        learns = [p.requires_grad for p in module.parameters()]
        if learns and not any(learns):
            module.eval()
