"""Chooses by measuring how a network is computed fastest on this machine; its weights are the same in every way."""

import copy
import logging
import math
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, overload

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hilum.modelling.convolution import Conv3D
from hilum.modelling.ensemble import Ensemble, Network
from hilum.modelling.memory import can_keep, kept_memory
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed_cache import key_of, remember, remembered
from hilum.modelling.weights.freezing import train_what_learns
from hilum.settings.run import SpeedConfig, Switch

_log = logging.getLogger("hilum")

PLAIN = SpeedConfig(
    precision="fp32", channels_last="off", folded_stem="off", products="off", compile="off", keep_memory="off"
)
"""Plain PyTorch in float32, without any of the faster ways."""

EXACT = replace(PLAIN, channels_last="on", folded_stem="pairs")
"""Faster ways in fp32, which usually pay: used without measuring for predictions and for the final validation."""

_GAIN = 1.03
"""A way must be this many times as fast as a plainer one to be taken: smaller gains may be chance."""

_ROUNDING_GAIN = 1.2
"""bf16 must be this many times as fast as fp32: it trains another model, and chance must not decide between them."""

_VOXELS = 8 * 64**3
"""Largest batch that is measured, in voxels, but at least two cases; in larger batches the order stays the same."""

_TURNS = (2, 12)
_SECONDS = 3.0
"""The ways take turns: at least and at most this often, and in between until this much time has passed. The shortest
time of each counts: other load can only add to it."""

_SLOW = 1.5
"""A way that takes this many times as long as the fastest, after the least number of turns, gets no further turn."""

_HOPELESS = (1.0, 5.0)
"""A way whose warm-up on a CPU takes so many seconds, and so many times as long as the fastest, gets no turn: without
instructions for bf16 a pass can take twenty times as long as in fp32."""

_WORTH_COMPILING = 2000
"""Compiling takes a minute or two: it is tried only on GPUs, for runs of this many steps or more; see the docs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedChoice:
    """The chosen settings, and the measured seconds of each way that was tried.

    Attributes:
        speed: Nothing in it is ``auto``.
        seconds: Seconds of one forward and backward pass of ``shape``, by the way's name.
        shape: Shape of the batch that was measured: cases, channels, z, y, x.
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


_CHOICES: dict[str, tuple[Any, ...]] = {
    "precision": ("fp32", "bf16"),
    "channels_last": ("off", "on"),
    "folded_stem": ("off", "pairs", "blocks"),
    "products": ("off", "on"),
    "compile": ("off", "on"),
}
"""What is tried for a setting that is ``auto``, the plainest first."""


def name_of(speed: SpeedConfig) -> str:
    """Short name of a way, such as ``bf16, channels last, stem in pairs``."""
    switches = {
        "channels last": speed.channels_last,
        "stem in pairs": _switch(speed.folded_stem == "pairs"),
        "stem in blocks": _switch(speed.folded_stem == "blocks"),
        "products": speed.products,
        "compiled": speed.compile,
    }
    return ", ".join([speed.precision, *(name for name, switch in switches.items() if switch == "on")])


def apply_speed(network: ResNet3D, speed: SpeedConfig) -> None:
    """Set how a network is computed; its weights, and the names in its state dict, do not change."""
    network.channels_last = speed.channels_last == "on"
    for module in network.modules():
        if isinstance(module, Conv3D):
            module.way = "product" if speed.products == "on" else "plain"
    if speed.folded_stem in ("pairs", "blocks"):
        network.conv1.way = speed.folded_stem


def autocast(device: torch.device, speed: SpeedConfig) -> AbstractContextManager[Any]:
    """A context in which convolutions and matrix products are computed in bf16, if the settings say so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=speed.precision == "bf16")


@overload
def for_prediction(network: ResNet3D, speed: SpeedConfig) -> ResNet3D: ...


@overload
def for_prediction(network: Ensemble, speed: SpeedConfig) -> Ensemble: ...


def for_prediction(network: Network, speed: SpeedConfig) -> Network:
    """A copy for prediction only: batch norms are folded into their convolutions, and bf16 weights are stored in bf16.

    Its state dict differs from the network's: save the network, not the copy.
    """
    if isinstance(network, Ensemble):
        return Ensemble({name: for_prediction(one, speed) for name, one in network.members.items()}).eval()
    network = copy.deepcopy(network).eval().requires_grad_(False)
    apply_speed(network, speed)
    for module in list(network.modules()):
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):
            before, after = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(before, Conv3D) and isinstance(after, nn.BatchNorm3d):
                _fold(before, after)
                setattr(module, norm, nn.Identity())
    if network.channels_last:  # not in training: the optimizer needs contiguous weights
        for module in network.modules():
            if isinstance(module, Conv3D):
                module.weight.data = module.weight.contiguous(memory_format=torch.channels_last_3d)
    if speed.precision == "bf16":
        for name, module in network.named_children():
            if name not in ("avgpool", "measures", "fc"):
                module.bfloat16()
    return network


def _fold(conv: Conv3D, norm: nn.BatchNorm3d) -> None:
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = weight.requires_grad_(False), bias.requires_grad_(False)


def choose_speed(
    network: ResNet3D,
    shape: tuple[int, ...],
    speed: SpeedConfig,
    device: torch.device,
    *,
    training: bool = True,
    expected_steps: int = 0,
    cached: bool = True,
) -> SpeedChoice:
    """Measure the fastest way to compute a network, among those that the settings leave open.

    Precision and memory format are tried together, then how convolutions are computed (see ``SpeedConfig``), then
    ``torch.compile``. The network is not changed, nor the state of random generators.

    Args:
        network: The network, on any device.
        shape: Shape of a batch: cases, channels, z, y, x.
        speed: Settings that are ``auto`` are measured, the others are kept.
        device: The device on which it will be computed.
        training: Measure forward and backward; else forward alone, with batch norm folded.
        expected_steps: Steps of the whole run; compiling does not pay for few of them.
        cached: Whether earlier measurements on this machine are used.
    """
    if speed.keep_memory == "auto":
        speed = replace(speed, keep_memory=_switch(device.type == "cpu" and can_keep()))
    if speed.folded_stem == "auto" and 2 not in network.conv1.stride:
        speed = replace(speed, folded_stem="off")  # there is no stride to fold
    if speed.compile == "auto" and (device.type != "cuda" or expected_steps < _WORTH_COMPILING):
        speed = replace(speed, compile="off")
    cases = max(2, min(shape[0], _VOXELS // (shape[2] * shape[3] * shape[4])))
    shape = (cases, *shape[1:])
    if speed.is_resolved:
        return SpeedChoice(speed=speed, seconds={}, shape=shape)
    weights = [(name, tuple(t.shape)) for name, t in network.state_dict().items()]
    strides = [tuple(m.stride) for m in network.modules() if isinstance(m, Conv3D)]
    layers = [type(m).__name__ for m in network.modules()]
    learns = [p.requires_grad for p in network.parameters()]
    key = key_of(device, training, weights, strides, layers, learns, network.checkpointing, shape, asdict(speed))
    known = remembered(key) if cached else None
    if known is not None:
        return SpeedChoice(speed=known[0], seconds=known[1], shape=shape)
    _log.info("speed: measuring, once for this machine, how %s is computed fastest ...", _of(shape))
    started = time.perf_counter()
    with torch.random.fork_rng(), kept_memory(speed.keep_memory == "on"):
        measured = _measure(network, shape, speed, device, training=training)
    _log.info("speed: measured in %.1f s", time.perf_counter() - started)
    if cached and all(math.isfinite(s) for s in measured.seconds.values()):  # a failure may be temporary
        remember(key, measured.speed, measured.seconds)
    return measured


def _measure(
    network: ResNet3D, shape: tuple[int, ...], speed: SpeedConfig, device: torch.device, *, training: bool
) -> SpeedChoice:
    network = copy.deepcopy(network).to(device).eval()
    if training:
        train_what_learns(network)
    x = torch.rand(shape, device=device)
    seconds: dict[str, float] = {}

    best = replace(  # measured first: what is usually fastest
        speed,
        folded_stem="pairs" if speed.folded_stem == "auto" else speed.folded_stem,
        products=_switch(speed.products != "off"),
        compile=_switch(speed.compile == "on"),
    )
    for names in (("precision", "channels_last"), ("folded_stem", "products"), ("compile",)):
        values = [_CHOICES[name] if getattr(speed, name) == "auto" else (getattr(speed, name),) for name in names]
        ways = [replace(best, **dict(zip(names, chosen, strict=True))) for chosen in product(*values)]
        best = ways[0]
        if len(ways) > 1:
            _race(network, x, ways, seconds)
        for way in ways[1:]:
            gain = _GAIN if way.precision == best.precision else _ROUNDING_GAIN
            if seconds[name_of(way)] * gain < seconds[name_of(best)]:
                best = way
    return SpeedChoice(speed=best, seconds=seconds, shape=shape)


def _race(network: ResNet3D, x: torch.Tensor, ways: list[SpeedConfig], seconds: dict[str, float]) -> None:
    """Write the least seconds of a pass under each way's name; infinite if it cannot be computed."""
    runs: dict[str, tuple[SpeedConfig, ResNet3D, Any]] = {}
    for way in ways:
        own = network if network.training else for_prediction(network, way)
        runs[name_of(way)] = way, own, torch.compile(own, dynamic=False) if way.compile == "on" else own
    warm_up: dict[str, float] = {}
    started, (least, most) = time.perf_counter(), _TURNS
    for turn in range(1 + most):  # the first is a warm-up: memory is allocated and kernels are built
        for name, (way, own, run) in list(runs.items()):
            try:
                took = _seconds(own, x, way, run)
            except Exception as exc:  # no compiler, an unsupported operation, not enough memory
                del runs[name]
                if not runs and min(seconds.values(), default=float("inf")) == float("inf"):
                    raise  # no way works
                _log.info("%s cannot be computed here: %s", name, f"{exc}".split("\n")[0] or type(exc).__name__)
                seconds[name] = float("inf")
                continue
            if turn > 0:
                seconds[name] = min(took, seconds.get(name, took))
            else:
                warm_up[name] = took
        if turn == 0 and x.device.type == "cpu" and all(way.compile == "off" for way in ways):
            longest = max(_HOPELESS[0], _HOPELESS[1] * min(warm_up.values(), default=0.0))
            seconds.update({name: warm_up[name] for name in runs if warm_up[name] > longest})
            runs = {name: run for name, run in runs.items() if warm_up[name] <= longest}
        if turn >= least:  # a single turn beside other load must not decide
            best = min((seconds[name] for name in runs), default=0.0)
            runs = {name: run for name, run in runs.items() if seconds[name] < _SLOW * best}
            if len(runs) == 1 or time.perf_counter() - started > _SECONDS:
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
    """A batch as text, without its channels."""
    return f"{shape[0]} x {' x '.join(map(str, shape[2:]))}"


def _switch(on: bool) -> Switch:
    return "on" if on else "off"
