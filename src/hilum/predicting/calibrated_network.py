"""A model folder as one module of PyTorch, from HU to calibrated probabilities."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import load_model
from hilum.files import user_path
from hilum.measuring.calibration import Calibration, Corner
from hilum.modelling.ensemble import Network
from hilum.modelling.input import model_input
from hilum.modelling.losses.base import log_odds
from hilum.settings.recipe import Range


def load_network(folder: str | Path) -> "FromHU":
    """Load a model folder as a plain module, in evaluation mode on the CPU: HU in, calibrated probabilities out.

    Its ``network`` alone gives logits, of an input as ``model_input`` makes it. Gate, thresholds, test-time
    augmentation and the mean over sub-volumes are not part of it: ``Predictor`` has them. The weights are frozen; to
    train them call ``requires_grad_()``.

    Args:
        folder: A model folder, or the run folder around it; also of an ensemble.

    Raises:
        CheckpointError: If the folder is not a complete model folder.

    Example:
        network = hilum.load_network("runs/first")
        probs = network(batch["hu"].float())
    """
    network, card = load_model(user_path(folder))
    return FromHU(network, card.recipe.windows, card.decisions).eval()


class FromHU(nn.Module):
    """A network with windowing before it and calibration after it.

    Args:
        network: In evaluation mode.
        windows_hu: HU of black and of white, for each channel.
        decisions: Calibration of the logits.
    """

    def __init__(self, network: Network, windows_hu: tuple[Range, ...], decisions: Decisions) -> None:
        super().__init__()
        self.network = network
        self.windows_hu = windows_hu
        self.calibrated = Calibrated(decisions)

    def forward(self, hu: Float[Tensor, "b k z y x"]) -> Float[Tensor, "b c"]:
        """Probabilities of the classes; channels are HU and, if the recipe has a lung channel, the lung mask."""
        probs: Tensor = self.calibrated(self.network(model_input(hu, self.windows_hu)))
        return probs


class Calibrated(nn.Module):
    """Probabilities from logits, as ``Decisions.probabilities`` gives them, in float32.

    Args:
        decisions: Decisions of a model.
    """

    def __init__(self, decisions: Decisions) -> None:
        super().__init__()
        self.multi_label = decisions.multi_label
        self.each = nn.ModuleList(_Softmax(one.calibration) for one in decisions.each)

    def forward(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """Calibrated probabilities; rows sum to 1 unless multi-label."""
        if not self.multi_label:
            probs: Tensor = self.each[0](logits)
            return probs
        pairs = [torch.stack([torch.zeros_like(z), z], dim=1) for z in logits.unbind(dim=1)]
        return torch.stack([one(pair)[:, 1] for one, pair in zip(self.each, pairs, strict=True)], dim=1)


class _Softmax(nn.Module):
    """softmax(logits / temperature + bias), or of the logarithms of isotonic curves."""

    bias: Tensor

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.temperature = calibration.temperature
        self.curves = nn.ModuleList(_Curve(curve) for curve in calibration.curves)
        self.register_buffer("bias", torch.tensor(calibration.bias or 0.0))

    def forward(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        scores = self._on_curves(logits) if len(self.curves) else logits / self.temperature
        return torch.softmax(scores + self.bias, dim=1)

    def _on_curves(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        odds = log_odds(logits)[:, 0]
        if len(self.curves) == 1:
            second = self.curves[0](odds[:, 1])
            return torch.stack([1 - second, second], dim=1).log()
        return torch.stack([curve(odds[:, k]) for k, curve in enumerate(self.curves)], dim=1).log()


class _Curve(nn.Module):
    """A curve that is linear between corners and constant beyond the ends, as a sum of clamped ramps."""

    start: Tensor
    left: Tensor
    width: Tensor
    rise: Tensor

    def __init__(self, corners: tuple[Corner, ...]) -> None:
        super().__init__()
        x, y = torch.tensor(corners, dtype=torch.float64).T
        self.register_buffer("start", y[0].float())
        self.register_buffer("left", x[:-1].float())
        self.register_buffer("width", x.diff().float())
        self.register_buffer("rise", y.diff().float())

    def forward(self, odds: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        if not len(self.left):
            return self.start.expand(odds.shape)
        along = ((odds[:, None] - self.left) / self.width).clamp(0, 1)
        return self.start + (along * self.rise).sum(dim=1)
