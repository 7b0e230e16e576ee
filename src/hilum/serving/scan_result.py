"""Predicts one scan, finds its lungs and makes maps: the result that DICOM objects, pages and the service show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from hilum.cohorts.cells import NO_RESULT
from hilum.deciding.model_folder import ModelCard
from hilum.errors import GeometryError, PrepareError
from hilum.predicting.explain.ask import ask
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.predictor import Prediction, Predictor
from hilum.predicting.prepare_scan import prepare_scan
from hilum.preparing.lungs.masks import read_lungs
from hilum.preparing.lungs.segment import Lungs, segment_lungs
from hilum.preparing.resample import sample_mask
from hilum.reading.source import ScanSource
from hilum.settings.explain import ExplainConfig
from hilum.volume import Triple, Volume


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanResult:
    """The result of a model for one scan.

    Attributes:
        source: The scan with its slices; for DICOM objects also with its headers.
        prediction: The prediction.
        card: The model's card.
        model_digest: Digest of the model folder.
        sample: What the model saw.
        lungs: The lungs, on the grid of the scan or of a mask that was given.
        heat_maps: Maps; empty without a result.
        point_mm: The point at which the model looked, LPS (x, y, z).
        has_given_lungs: Whether the lungs come from a mask that the user gave.
    """

    source: ScanSource
    prediction: Prediction
    card: ModelCard
    model_digest: str
    sample: Volume
    lungs: Lungs
    heat_maps: tuple[HeatMap, ...] = ()
    point_mm: Triple | None = None
    has_given_lungs: bool = False

    @property
    def has_result(self) -> bool:
        """Whether the model answers for this scan."""
        return self.prediction.outcome.kind != NO_RESULT

    @property
    def lungs_on_scan(self) -> UInt8[np.ndarray, "z y x"]:
        """1 in the right lung, 2 in the left, on the scan's own grid."""
        lungs, volume = self.lungs, self.source.volume
        if lungs.labels.shape == volume.shape and np.array_equal(lungs.affine, volume.affine):
            return lungs.labels
        right, left = (
            sample_mask(lungs.part(side), lungs.affine, volume.affine, volume.shape) for side in ("right", "left")
        )
        return np.where(right, 1, np.where(left, 2, 0)).astype(np.uint8)

    @property
    def seen(self) -> Bool[np.ndarray, "z y x"]:
        """True for the voxels of the scan whose centres lie in the box that the model saw."""
        volume, sample = self.source.volume, self.sample
        corners = np.array(list(np.ndindex(2, 2, 2))) * np.array(sample.shape) - 0.5
        ends = volume.mm_to_index(sample.index_to_mm(corners))
        low = np.clip(np.floor(ends.min(axis=0)).astype(int), 0, volume.shape)
        high = np.clip(np.ceil(ends.max(axis=0)).astype(int) + 1, 0, volume.shape)
        box = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        step, (z, y, x) = np.linalg.inv(sample.affine) @ volume.affine, np.ogrid[box]
        inside = np.zeros(volume.shape, bool)
        within = np.ones(inside[box].shape, bool)
        for axis, size in enumerate(sample.shape):
            at = step[axis, 0] * z + step[axis, 1] * y + step[axis, 2] * x + step[axis, 3]
            within &= (at >= -0.5) & (at <= size - 0.5)
        inside[box] = within
        return inside


def ask_of_scan(
    predictor: Predictor,
    source: ScanSource,
    *,
    config: ExplainConfig | None,
    point_mm: Any = None,
    mask: Path | None = None,
    path: Path | None = None,
    show_progress: bool = False,
) -> ScanResult:
    """Predict a scan, find its lungs and explain the prediction.

    Args:
        predictor: The model.
        source: The scan.
        config: How maps are made; None: none are.
        point_mm: LPS mm (x, y, z), for models of region ``point``.
        mask: File of a lung mask; None: the lungs are segmented.
        path: Where the scan was read, for errors.
        show_progress: Show a bar where a map takes longer than two seconds.

    Raises:
        HilumError: If the scan cannot be prepared.
    """
    volume, card = source.volume, predictor.card
    try:
        sample = prepare_scan(card, volume, point_mm=point_mm, mask=mask if card.recipe.needs_lungs else None)
    except (GeometryError, PrepareError) as exc:
        exc.path = exc.path or path
        raise
    asked = ask(predictor, sample, config, show_progress=show_progress)
    return ScanResult(
        source=source,
        prediction=asked.prediction,
        card=card,
        model_digest=predictor.digest,
        sample=sample,
        lungs=read_lungs(mask, volume) if mask is not None else segment_lungs(volume),
        heat_maps=asked.heat_maps,
        has_given_lungs=mask is not None,
        point_mm=None if point_mm is None else tuple(float(mm) for mm in point_mm),  # type: ignore[arg-type]
    )
