"""Parameters, arithmetic and memory of a network, counted by running it on fake tensors, which hold no numbers."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hilum.deciding.model_folder import build
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.freezing import freeze, train_what_learns
from hilum.settings.run import RunConfig

_OVERHEAD = 0.4
"""Memory that an allocator holds in addition, as a share of the temporary tensors: measured 0.12 to 0.9 with glibc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Size and arithmetic of a network.

    Attributes:
        parameters: All parameters.
        trained: Parameters that are not frozen.
        forward_flop: Additions and multiplications of convolutions and matrix products in a prediction of one case.
        step_flop: The same for forward and backward, including what checkpointing computes twice.
    """

    parameters: int
    trained: int
    forward_flop: int
    step_flop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a training step on the device, in bytes, without the program itself.

    Attributes:
        weights: Weights, with the statistics of batch norm.
        gradients: All gradients together.
        optimizer: Two moments for each parameter that is not frozen.
        batch: The batch in HU, and as input of the network.
        saved: Tensors kept from forward for backward: activations, and under bf16 copies of the weights.
        peak: Maximum over time of all tensors and the workspace of convolutions.
        total: The peak, with the best weights so far and the allocator's overhead.
    """

    weights: int
    gradients: int
    optimizer: int
    batch: int
    saved: int
    peak: int

    @property
    def total(self) -> int:
        """Bytes that must be free."""
        return self.weights + _with_overhead(self.peak, self.weights + self.optimizer)


class _TensorBytes(TorchDispatchMode):
    """Counts the bytes of live tensors, each storage once, and their maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def hold(self, tensors: Iterator[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _release(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.hold(_tensors(out))
        if "convolution" in str(func):  # computed in its own layout: operands and result are copied
            copies = sum(t.untyped_storage().nbytes() for t in _tensors((args, out)))
            self.peak = max(self.peak, self.now + copies)
        return out


def network_of(config: RunConfig, num_classes: int) -> ResNet3D:
    """The network of a config in its training setup; under FakeTensorMode it holds no numbers."""
    network = build(config.model, config.recipe, num_classes)
    network.checkpointing = config.training.checkpointing
    network.channels_last = config.speed.channels_last != "off"
    return network


def cost_of(config: RunConfig, num_classes: int) -> Cost:
    """Parameters, and arithmetic for one case.

    Args:
        config: Its model, recipe, checkpointing and frozen parts.
        num_classes: Number of outputs.
    """
    cases = 2  # batch norm cannot train on one
    with FakeTensorMode():
        network = network_of(config, num_classes)
        freeze(network, config.training.freeze)
        x = torch.empty(_shape(config, network, cases))
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            network.eval()(x)
        train_what_learns(network)
        with FlopCounterMode(display=False) as step:
            network(x).sum().backward()
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
        forward_flop=forward.get_total_flops() // cases,
        step_flop=step.get_total_flops() // cases,
    )


def training_memory(config: RunConfig, num_classes: int, *, bf16: bool = False) -> Memory:
    """Memory of a step of the training loop.

    Args:
        config: Its model, recipe, batch, micro batch, checkpointing and frozen parts.
        num_classes: Number of outputs.
        bf16: Whether training runs under autocast.
    """
    settings = config.training
    at_once = config.at_once(settings.batch_size)
    with FakeTensorMode():
        network = network_of(config, num_classes)
        freeze(network, config.training.freeze)
        train_what_learns(network)
        learning = [p for p in network.parameters() if p.requires_grad]
        with _TensorBytes() as held:
            held.hold(iter([*network.parameters(), *network.buffers()]))
            weights = held.now
            moments = [torch.empty_like(p) for p in learning for _ in range(2)]
            optimizer = held.now - weights
            if at_once < settings.batch_size:  # earlier micro batches have left their gradients
                for parameter in learning:
                    parameter.grad = torch.empty_like(parameter)
            before = held.now
            x = torch.empty(_shape(config, network, settings.batch_size))
            hu = torch.empty((len(x), 1 + config.recipe.lung_channel, *config.recipe.size))
            batch = held.now - before
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(x[:at_once])
            saved = held.now - before - batch
            logits.float().sum().backward()
        del moments, hu
    gradients = sum(p.numel() * p.element_size() for p in learning)
    return Memory(weights=weights, gradients=gradients, optimizer=optimizer, batch=batch, saved=saved, peak=held.peak)


def prediction_bytes(config: RunConfig, num_classes: int, cases: int) -> int:
    """Bytes needed to predict this many cases at once, in float32."""
    with FakeTensorMode():
        network = network_of(config, num_classes).eval()
        with _TensorBytes() as held, torch.no_grad():
            held.hold(iter([*network.parameters(), *network.buffers()]))
            weights = held.now
            x = torch.empty(_shape(config, network, cases))
            network(x)
    return _with_overhead(held.peak, weights)


def _shape(config: RunConfig, network: ResNet3D, cases: int) -> tuple[int, int, int, int, int]:
    return (cases, network.in_channels, *config.recipe.size)


def _with_overhead(peak: int, lasting: int) -> int:
    return round(peak + _OVERHEAD * (peak - lasting))


def _tensors(values: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(values) if isinstance(t, Tensor))
