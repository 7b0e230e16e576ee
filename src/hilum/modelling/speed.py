"""How a network is computed fastest on this machine, found by measuring; its weights are the same in every way."""

import copy
import logging
import math
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hilum.modelling.convolution import Conv3D
from hilum.modelling.memory import can_keep, kept_memory
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed_cache import key_of, remember, remembered
from hilum.modelling.weights.freezing import train_what_learns
from hilum.settings.run import SpeedConfig, Switch

_log = logging.getLogger("hilum")

PLAIN = SpeedConfig(
    precision="fp32", channels_last="off", folded_stem="off", products="off", compile="off", keep_memory="off"
)
"""As everybody computes it."""

EXACT = replace(PLAIN, channels_last="on", folded_stem="pairs")
"""In fp32, and most often faster: predictions are made so without measuring, as is the validation for the threshold."""

_GAIN = 1.03
"""A way must be so many times as fast as a plainer one to be taken: what is less may be chance."""

_ROUNDING_GAIN = 1.2
"""bf16 must be so many times as fast as fp32, for it trains another model: chance must not decide between them."""

_VOXELS = 8 * 64**3
"""Largest batch that is measured, but for two cases at least; ways keep their order beyond it."""

_TURNS = (2, 12)
_SECONDS = 3.0
"""The ways take turns, so often at least and at most, and otherwise for so long; one turn will do where the first,
which does not count, took that long. The shortest of each counts: what else runs on the machine can only add to it."""

_SLOW = 1.5
"""A way that takes so many times as long as the fastest has no further turn."""

_WORTH_COMPILING = 2000
"""Compiling takes a minute or two: it is tried where a run has so many steps, and on GPUs alone; see docs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was chosen, and the seconds of each way that was tried.

    Attributes:
        speed: Nothing in it is ``auto``.
        seconds: Of one forward and backward pass of ``shape``, by the way's name.
        shape: Of the batch that was measured: cases, channels, z, y, x.
    """

    speed: SpeedConfig
    seconds: dict[str, float]
    shape: tuple[int, ...]

    @property
    def line(self) -> str:
        """One sentence for the log."""
        name = name_of(self.speed)
        if name not in self.seconds:
            return f"speed: {name}"
        other, took = max(((n, s) for n, s in self.seconds.items() if s < float("inf")), key=lambda i: i[1])
        most = f"at most {1000 * took:.0f} ms ({other})"
        return f"speed: {name}; a pass of {_of(self.shape)} takes {1000 * self.seconds[name]:.0f} ms, {most}"


def name_of(speed: SpeedConfig) -> str:
    """A way in a few words, such as ``bf16, channels last, stem in pairs``."""
    switches = {
        "channels last": speed.channels_last,
        "stem in pairs": _switch(speed.folded_stem == "pairs"),
        "stem in blocks": _switch(speed.folded_stem == "blocks"),
        "products": speed.products,
        "compiled": speed.compile,
    }
    return ", ".join([speed.precision, *(name for name, switch in switches.items() if switch == "on")])


def apply_speed(network: ResNet3D, speed: SpeedConfig) -> None:
    """Set the way in which a network is computed; weights, and the names in its state dict, stay as they are."""
    network.channels_last = speed.channels_last == "on"
    for module in network.modules():
        if isinstance(module, Conv3D):
            module.way = "product" if speed.products == "on" else "plain"
    if speed.folded_stem in ("pairs", "blocks"):
        network.conv1.way = speed.folded_stem


def autocast(device: torch.device, speed: SpeedConfig) -> AbstractContextManager[Any]:
    """Where convolutions and products are computed in bf16, if the way says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=speed.precision == "bf16")


def for_prediction(network: ResNet3D, speed: SpeedConfig) -> ResNet3D:
    """A copy that only predicts: each batch norm becomes part of its convolution, and bf16 weights are kept as such.

    Its state dict is its own; what is saved is the network's.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    apply_speed(network, speed)
    for module in list(network.modules()):
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):
            before, after = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(before, Conv3D) and isinstance(after, nn.BatchNorm3d):
                _fold(before, after)
                setattr(module, norm, nn.Identity())
    if network.channels_last:  # not in training: the optimizer wants weights as they are
        for module in network.modules():
            if isinstance(module, Conv3D):
                module.weight.data = module.weight.contiguous(memory_format=torch.channels_last_3d)
    if speed.precision == "bf16":
        network.bfloat16()
        network.avgpool.float()
        network.fc.float()
    return network


def _fold(conv: Conv3D, norm: nn.BatchNorm3d) -> None:
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = weight.requires_grad_(False), bias.requires_grad_(False)


def choose(
    network: ResNet3D,
    shape: tuple[int, ...],
    speed: SpeedConfig,
    device: torch.device,
    *,
    training: bool = True,
    expected_steps: int = 0,
    cached: bool = True,
) -> Measured:
    """The fastest way to compute a network, among those that the settings leave open.

    Precision and order in memory are tried together, then the folded stem and products, then ``torch.compile``. The
    network itself is not touched, nor the state of any random numbers.

    Args:
        network: On any device.
        shape: Of a batch: cases, channels, z, y, x.
        speed: What is ``auto`` in it is measured, the rest is kept.
        device: Where it will be computed.
        training: Forward and backward; else forward alone, with batch norm folded.
        expected_steps: Of the whole run; few of them are not worth compiling.
        cached: Whether what was measured on this machine before counts.
    """
    if speed.keep_memory == "auto":
        speed = replace(speed, keep_memory=_switch(device.type == "cpu" and can_keep()))
    if speed.folded_stem == "auto" and 2 not in network.conv1.stride:
        speed = replace(speed, folded_stem="off")  # there is nothing to fold
    if speed.compile == "auto" and (device.type != "cuda" or expected_steps < _WORTH_COMPILING):
        speed = replace(speed, compile="off")
    cases = max(2, min(shape[0], _VOXELS // (shape[2] * shape[3] * shape[4])))
    shape = (cases, *shape[1:])
    if speed.is_resolved:
        return Measured(speed=speed, seconds={}, shape=shape)
    weights = [(name, tuple(t.shape)) for name, t in network.state_dict().items()]
    strides = [tuple(m.stride) for m in network.modules() if isinstance(m, Conv3D)]
    layers = [type(m).__name__ for m in network.modules()]
    learns = [p.requires_grad for p in network.parameters()]
    key = key_of(device, training, weights, strides, layers, learns, network.checkpointing, shape, asdict(speed))
    known = remembered(key) if cached else None
    if known is not None:
        return Measured(speed=known[0], seconds=known[1], shape=shape)
    _log.info("speed: measuring, once for this machine, how %s is computed fastest ...", _of(shape))
    started = time.perf_counter()
    with torch.random.fork_rng(), kept_memory(speed.keep_memory == "on"):
        measured = _measure(network, shape, speed, device, training=training)
    _log.info("speed: measured in %.1f s", time.perf_counter() - started)
    if cached and all(math.isfinite(s) for s in measured.seconds.values()):  # what failed may work another time
        remember(key, measured.speed, measured.seconds)
    return measured


def _measure(
    network: ResNet3D, shape: tuple[int, ...], speed: SpeedConfig, device: torch.device, *, training: bool
) -> Measured:
    network = copy.deepcopy(network).to(device).eval()
    if training:
        train_what_learns(network)
    x = torch.rand(shape, device=device)
    seconds: dict[str, float] = {}

    def fastest(ways: list[SpeedConfig]) -> SpeedConfig:
        best = ways[0]
        if len(ways) > 1:
            _race(network, x, ways, seconds)
        for way in ways[1:]:
            gain = _GAIN if way.precision == best.precision else _ROUNDING_GAIN
            if seconds[name_of(way)] * gain < seconds[name_of(best)]:
                best = way
        return best

    base = replace(  # what is most often fastest comes first
        speed,
        folded_stem="pairs" if speed.folded_stem == "auto" else speed.folded_stem,
        products=_switch(speed.products != "off"),
        compile=_switch(speed.compile == "on"),
    )
    best = fastest(
        [
            replace(base, precision=precision, channels_last=order)
            for precision in _open(speed.precision, "fp32", "bf16")
            for order in _open(speed.channels_last, "off", "on")
        ]
    )
    best = fastest(
        [
            replace(best, folded_stem=stem, products=products)
            for stem in _open(speed.folded_stem, "off", "pairs", "blocks")
            for products in _open(speed.products, "off", "on")
        ]
    )
    best = fastest([replace(best, compile=way) for way in _open(speed.compile, "off", "on")])
    return Measured(speed=best, seconds=seconds, shape=shape)


def _race(network: ResNet3D, x: torch.Tensor, ways: list[SpeedConfig], seconds: dict[str, float]) -> None:
    """Put the least seconds of a pass under each way's name; those of one that cannot be computed are infinite."""
    runs: dict[str, tuple[SpeedConfig, ResNet3D, Any]] = {}
    for way in ways:
        own = network if network.training else for_prediction(network, way)
        runs[name_of(way)] = way, own, torch.compile(own, dynamic=False) if way.compile == "on" else own
    started, (least, most) = time.perf_counter(), _TURNS
    for turn in range(1 + most):  # the first does not count: memory is taken, and kernels are made
        for name, (way, own, run) in list(runs.items()):
            try:
                took = _seconds(own, x, way, run)
            except Exception as exc:  # a compiler that is missing, an operation that a device lacks, memory
                del runs[name]
                if not runs and min(seconds.values(), default=float("inf")) == float("inf"):
                    raise  # none is left
                _log.info("%s cannot be computed here: %s", name, f"{exc}".split("\n")[0] or type(exc).__name__)
                seconds[name] = float("inf")
                continue
            if turn > 0:
                seconds[name] = min(took, seconds.get(name, took))
        if turn == 0 and time.perf_counter() - started > _SECONDS:
            least = 1
        if turn > 0:
            best = min((seconds[name] for name in runs), default=0.0)
            runs = {name: run for name, run in runs.items() if seconds[name] < _SLOW * best}
            if len(runs) == 1 or (turn >= least and time.perf_counter() - started > _SECONDS):
                break


def _seconds(network: ResNet3D, x: torch.Tensor, way: SpeedConfig, run: Any) -> float:
    if network.training:
        apply_speed(network, way)
    started = time.perf_counter()
    try:
        with autocast(x.device, way), torch.set_grad_enabled(network.training):
            total = run(x).float().square().mean()
        if network.training:
            total.backward()
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - started
    finally:
        network.zero_grad()


def _of(shape: tuple[int, ...]) -> str:
    """A batch in words; its channels are the network's."""
    return f"{shape[0]} x {' x '.join(map(str, shape[2:]))}"


def _switch(on: bool) -> Switch:
    return "on" if on else "off"


def _open(setting: Any, *choices: Any) -> tuple[Any, ...]:
    """What may be tried: all choices, or the one that was set."""
    return choices if setting == "auto" else (setting,)
