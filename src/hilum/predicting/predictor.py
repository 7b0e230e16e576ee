"""One scan and a model folder to a Prediction."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hilum.config import Recipe
from hilum.errors import CheckpointError
from hilum.findings import Finding, as_records
from hilum.measuring.calibration import probabilities
from hilum.modelling.device import pick_device
from hilum.modelling.input import model_input
from hilum.predicting.model import load_model
from hilum.preparing import prepare, prepare_path
from hilum.volume import Volume

INDETERMINATE = "indeterminate"

_DOUBT = ("lungs-volume", "lungs-cut", "point-interpolated")
"""Findings under which a model gives no decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model says about one scan.

    Attributes:
        probabilities: By class name; they sum to 1.
        decision: A class name, or ``indeterminate``.
        reason: Why it is indeterminate; else empty.
        threshold: Of the second class, where there are two.
        findings: Of reading and of preparing.
        geometry: The box that the model saw, in LPS mm, and its grid.
    """

    probabilities: dict[str, float]
    decision: str
    reason: str = ""
    threshold: float | None = None
    findings: tuple[Finding, ...] = ()
    geometry: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "probabilities": self.probabilities,
            "decision": self.decision,
            "reason": self.reason,
            "threshold": self.threshold,
            "findings": as_records(self.findings),
            "geometry": self.geometry,
        }


class Predictor:
    """Loads a model folder once and predicts many scans.

    Args:
        folder: ``model/`` of a run; nothing else is needed.
        device: Where the network runs; see ``pick_device``.

    Attributes:
        card: What ``model.json`` says.

    Raises:
        CheckpointError: If the folder is no whole model folder.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto") -> None:
        self.device = pick_device(device)
        network, self.card = load_model(Path(folder))
        self.network = network.to(self.device)

    def predict(self, scan: Volume | str | Path, *, point_mm: Any = None, series: str = "") -> Prediction:
        """Predict one scan.

        Args:
            scan: A Volume in HU, or whatever ``read`` takes.
            point_mm: LPS mm (x, y, z), for models of region ``point``.
            series: Which series, where the folder holds several.

        Raises:
            HilumError: If the scan cannot be read or prepared.
        """
        if isinstance(scan, Volume):
            sample = prepare(scan, self.card.recipe, point_mm=point_mm)
        else:
            sample = prepare_path(
                Path(scan), self.card.recipe, point_mm=point_mm, series=series, reading=self.card.reading
            )
        return self.predict_samples([sample])[0]

    @torch.inference_mode()
    def predict_samples(self, samples: list[Volume]) -> list[Prediction]:
        """Predict a batch of prepared samples."""
        hu = torch.from_numpy(np.stack([s.voxels_hu for s in samples])[:, None]).to(self.device).float()
        logits = self.network(model_input(hu, self.card.recipe.windows_hu))
        probs = probabilities(logits.double().cpu().numpy(), temperature=self.card.temperature)
        if not np.isfinite(probs).all():
            msg = "the network's output must be finite; the weights of this model are damaged"
            raise CheckpointError(msg)
        return [self._prediction(sample, row) for sample, row in zip(samples, probs, strict=True)]

    def _prediction(self, sample: Volume, probs: np.ndarray) -> Prediction:
        classes, threshold = self.card.classes, self.card.threshold
        positive = int(probs[1] >= threshold) if threshold is not None else int(probs.argmax())
        doubts = [f for f in sample.findings if f.code in _DOUBT]
        return Prediction(
            probabilities={name: float(p) for name, p in zip(classes, probs, strict=True)},
            decision=INDETERMINATE if doubts else classes[positive],
            reason="; ".join(f.message for f in doubts),
            threshold=threshold,
            findings=sample.findings,
            geometry=_geometry(sample, self.card.recipe),
        )


def _geometry(sample: Volume, recipe: Recipe) -> dict[str, Any]:
    half = np.array(recipe.grid_extent_mm)[::-1] / 2
    centre = sample.centre_mm
    return {
        "region": recipe.region,
        "centre_lps_mm": [round(float(v), 3) for v in centre],
        "box_lps_mm": [[round(float(v), 3) for v in corner] for corner in (centre - half, centre + half)],
        "size_zyx": list(sample.shape),
        "spacing_zyx_mm": [round(s, 6) for s in sample.spacing_mm],
    }
