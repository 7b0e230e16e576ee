"""The networks that are timed, each in a process of its own, for what one does to the allocator stays with it alone.

A row is Hilum as it trains or predicts, the tutorial as written, or MONAI's ResNet with the tutorial's structure
(strides of 2 in the stem, shortcut B). A process keeps its network and steps when asked, so that rows are interleaved.
"""

import importlib.util
import multiprocessing
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from machine import DATA
from torch import Tensor, nn
from torch.nn import functional as F

from hilum.modelling.memory import kept_memory
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import PLAIN, apply_speed, autocast, choose_speed, for_prediction, name_of
from hilum.predicting.export_check import quiet
from hilum.settings.run import SpeedConfig

MONAI = {
    "monai, fp32": ("fp32", "off"),
    "monai, fp32, channels last": ("fp32", "on"),
    "monai, bf16": ("bf16", "off"),
    "monai, bf16, channels last": ("bf16", "on"),
}


class Row:
    """A row's process: ``ask`` sends it a request and waits for the answer."""

    def __init__(self, name: str, *, amx: bool = True) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = os.environ.get("ONEDNN_MAX_CPU_ISA")
        if not amx:
            os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"
        self._process = context.Process(target=_serve, args=(name, theirs), daemon=True)
        self._process.start()
        if not amx:
            os.environ.pop("ONEDNN_MAX_CPU_ISA")
            os.environ.update({} if before is None else {"ONEDNN_MAX_CPU_ISA": before})

    def ask(self, what: str, *args: Any) -> Any:
        """The answer; an error of the row is one of ours."""
        self._pipe.send((what, args))
        done, answer = self._pipe.recv()
        if not done:
            raise RuntimeError(f"{self.name}, {what}: {answer}")
        return answer

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(name: str, pipe: Connection) -> None:
    held = _Held(name)
    while True:
        what, args = pipe.recv()
        try:
            pipe.send((True, getattr(held, what)(*args)))
        except Exception as exc:  # noqa: BLE001 - whatever a library raises is said by the process that asked
            pipe.send((False, f"{type(exc).__name__}: {exc}"))


class _Held:
    """What a row's process holds between requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rival = name.split(",")[0]
        self.speed = PLAIN
        self.stack = ExitStack()

    def train(self, depth: int, edge: int, batch: int, precision: str = "auto") -> dict[str, Any]:
        """Build the network and its optimizer; what was chosen, and the seconds that choosing took."""
        self._data(edge, batch)
        torch.manual_seed(0)
        network: nn.Module = _built(self.rival, depth)
        started, tried = time.perf_counter(), {}
        if isinstance(network, ResNet3D):
            asked = SpeedConfig(precision=precision)  # type: ignore[arg-type]
            chosen = choose_speed(network, tuple(self.x.shape), asked, torch.device("cpu"), cached=False)
            self.speed, tried = chosen.speed, chosen.seconds
            apply_speed(network, self.speed)
            self.stack.enter_context(kept_memory(self.speed.keep_memory == "on"))
        took = time.perf_counter() - started
        if self.name in MONAI:
            dtype, order = MONAI[self.name]
            self.speed = replace(PLAIN, precision=dtype, channels_last=order)  # type: ignore[arg-type]
            if order == "on":
                network = network.to(memory_format=torch.channels_last_3d)
                self.x = self.x.contiguous(memory_format=torch.channels_last_3d)
        self.network = network.train()
        fused = True if self.rival == "hilum" else None
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=fused)
        return {"way": name_of(self.speed), "choosing_s": round(took, 2), "tried": tried}

    def step(self) -> tuple[float, float, float]:
        """Seconds of forward with loss, backward, and optimizer."""
        began = time.perf_counter()
        with autocast(self.x.device, self.speed):
            logits = self.network(self.x)
        loss = F.cross_entropy(logits.float(), self.y)
        forward = time.perf_counter()
        self.optimizer.zero_grad()
        loss.backward()
        backward = time.perf_counter()
        self.optimizer.step()
        self.loss = loss.item()
        return forward - began, backward - forward, time.perf_counter() - backward

    def started(self) -> bool:
        """Answered when the process is there."""
        return True

    def last_loss(self) -> float:
        """Of the last step."""
        return self.loss

    def gradient_error(self) -> float:
        """Largest relative error of a weight's gradient, beside one in fp32, over the 3x3x3 convolutions of stage 4.

        The same activations and output gradients go into both: what differs is the convolution alone.
        """
        convs = [m for m in self.network.layer4.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)]
        seen: dict[nn.Module, list[Tensor]] = {}
        hooks = [c.register_forward_hook(lambda m, i, o: seen.update({m: [i[0].detach()]})) for c in convs]
        hooks += [c.register_full_backward_hook(lambda m, i, o: seen[m].append(o[0].detach())) for c in convs]
        self.step()
        errors = []
        for conv in convs:
            x, grad = (t.float() for t in seen[conv])
            own = conv.weight.grad
            expected = torch.nn.grad.conv3d_weight(x, conv.weight.shape, grad, conv.stride, conv.padding)
            errors.append(float((own - expected).norm() / expected.norm().clamp_min(1e-30)))
        for hook in hooks:
            hook.remove()
        return max(e if e == e else float("inf") for e in errors)

    def predict(self, depth: int, edge: int, batch: int) -> str:
        """Build the network for prediction; all rows have the same weights. What was chosen."""
        self._data(edge, batch)
        torch.manual_seed(0)
        own = ResNet3D(depth).eval()
        self.network = own
        if self.name.startswith("hilum"):
            precision = "fp32" if self.name == "hilum, fp32" else "auto"
            asked = SpeedConfig(precision=precision)  # type: ignore[arg-type]
            chosen = choose_speed(own, tuple(self.x.shape), asked, torch.device("cpu"), training=False, cached=False)
            self.speed = chosen.speed
            self.network = for_prediction(own, self.speed)
            self.stack.enter_context(kept_memory())  # as ``hilum predict`` does
            return name_of(self.speed)
        if self.name == "onnx":
            self.network = _onnx(own, self.x)
        elif self.name == "tutorial":
            self.network = _built("tutorial", depth).eval()
            self.network.load_state_dict(own.state_dict())
        return "fp32"

    @torch.inference_mode()
    def forward(self) -> float:
        """Seconds of one forward pass."""
        began = time.perf_counter()
        self.logits = self.network(self.x)
        return time.perf_counter() - began

    def outputs(self) -> list[list[float]]:
        """The last logits."""
        return self.logits.float().tolist()

    def conv_rates(self) -> dict[str, float]:
        """GFLOP/s of a 3x3x3 convolution of 64 channels on 8 x 16 cubed, forward and backward."""
        rates = {}
        for name, dtype, order in (
            ("fp32, contiguous", torch.float32, torch.contiguous_format),
            ("bf16, channels last", torch.bfloat16, torch.channels_last_3d),
        ):
            x = torch.randn(8, 64, 16, 16, 16).to(dtype).contiguous(memory_format=order).requires_grad_()
            conv = nn.Conv3d(64, 64, 3, padding=1, bias=False).to(dtype)
            grad, taken = torch.randn_like(conv(x)), []
            for _ in range(8):
                began = time.perf_counter()
                conv(x).backward(grad)
                taken.append(time.perf_counter() - began)
            rates[name] = round(3 * 2 * 8 * 64 * 64 * 27 * 16**3 / sorted(taken[1:])[3] / 1e9, 1)
        return rates

    def _data(self, edge: int, batch: int) -> None:
        self.stack.close()
        torch.manual_seed(0)
        self.x, self.y = torch.rand(batch, 1, edge, edge, edge), torch.arange(batch) % 2


def _built(rival: str, depth: int) -> nn.Module:
    if rival == "hilum":
        return ResNet3D(depth)
    if rival == "tutorial":
        spec = importlib.util.spec_from_file_location("tutorial", DATA.parent / "baseline" / "tutorial.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return {18: module.resnet18_3d, 34: module.resnet34_3d, 50: module.resnet50_3d}[depth]()
    from monai.networks import nets

    make = {18: nets.resnet18, 34: nets.resnet34, 50: nets.resnet50}[depth]
    return make(spatial_dims=3, n_input_channels=1, num_classes=2, conv1_t_stride=2, shortcut_type="B")


def _onnx(network: nn.Module, x: Tensor) -> Any:
    """The network alone as ONNX Runtime runs it, with its default settings but this process's number of threads."""
    import io

    import onnxruntime

    file = io.BytesIO()
    with quiet():
        torch.onnx.export(network, (x,), dynamo=True, verbose=False).save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # else it holds the cores between its turns
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
