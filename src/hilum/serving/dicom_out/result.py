"""What DICOM objects tell of one scan: its source, prediction, lungs and maps, and the model behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from hilum.cohorts.cells import NO_RESULT
from hilum.deciding.model_folder import ModelCard
from hilum.errors import ConfigError, GeometryError, PrepareError, require
from hilum.files import user_path
from hilum.predicting.explain.explainer import explain
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.predictor import Prediction, Predictor
from hilum.preparing.lungs.masks import read_lungs
from hilum.preparing.lungs.segment import Lungs, segment_lungs
from hilum.preparing.resample import sample_mask
from hilum.reading.reader import read_source
from hilum.reading.source import ScanSource
from hilum.serving.dicom_out.references import check_headers
from hilum.volume import Triple, Volume

RESEARCH = "RESEARCH - NOT FOR CLINICAL USE"
"""What every object says of itself."""

_LONGEST_NAME = 64
"""Characters of the meaning of a code (DICOM PS3.5, 6.2: LO)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanResult:
    """The result of a model for one scan whose source is DICOM.

    Attributes:
        source: The scan with its slices and headers.
        prediction: The prediction.
        card: The model's card.
        model_digest: Digest of the model folder.
        sample: What the model saw.
        lungs: 1 in the right lung, 2 in the left, on the scan's own grid.
        heat_maps: Maps; empty without a result.
        point_mm: The point that the user gave, LPS (x, y, z).
        has_given_lungs: Whether the lungs come from a mask that the user gave.
    """

    source: ScanSource
    prediction: Prediction
    card: ModelCard
    model_digest: str
    sample: Volume
    lungs: UInt8[np.ndarray, "z y x"]
    heat_maps: tuple[HeatMap, ...] = ()
    point_mm: Triple | None = None
    has_given_lungs: bool = False

    @property
    def has_result(self) -> bool:
        """Whether the model answers for this scan."""
        return self.prediction.outcome.kind != NO_RESULT

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


def result_of(
    predictor: Predictor,
    scan: str | Path,
    *,
    maps: bool = True,
    point_mm: Any = None,
    series: str = "",
    mask: str | Path | None = None,
) -> ScanResult:
    """Predict a scan, find its lungs and explain the prediction.

    Args:
        predictor: The model.
        scan: A path that ``read`` accepts.
        maps: Whether to make maps by occlusion.
        point_mm: LPS mm (x, y, z), for models of region ``point``.
        series: The series to read, if the path holds several.
        mask: File of a lung mask; None: the lungs are segmented.

    Raises:
        ConfigError: If the outputs have no names, or the scan is not DICOM.
        ReadError: If objects cannot refer to its headers.
        HilumError: If the scan cannot be read or prepared.
    """
    path = user_path(scan)
    _check_names(predictor.card.classes)
    source = read_source(path, series=series or None, reading=predictor.card.reading, headers=True)
    if source.turn is None:
        msg = "DICOM objects must return to a DICOM series, this scan is none: they refer to its slices and patient"
        raise ConfigError(msg, path=path)
    check_headers(source)
    volume = source.volume
    try:
        sample = predictor.prepare(volume, point_mm=point_mm, mask=mask if predictor.card.recipe.needs_lungs else None)
    except (GeometryError, PrepareError) as exc:
        exc.path = exc.path or path
        raise
    prediction = predictor.predict_samples([sample])[0]
    lungs = read_lungs(user_path(mask), volume) if mask is not None else segment_lungs(volume)
    has_result = prediction.outcome.kind != NO_RESULT
    return ScanResult(
        source=source,
        prediction=prediction,
        card=predictor.card,
        model_digest=predictor.digest,
        sample=sample,
        lungs=_on_scan(lungs, volume),
        heat_maps=explain(predictor, sample) if maps and has_result else (),
        has_given_lungs=mask is not None,
        point_mm=None if point_mm is None else tuple(float(mm) for mm in point_mm),  # type: ignore[arg-type]
    )


def _check_names(classes: Sequence[str]) -> None:
    """Raise a ConfigError if an output has no name that a report can say."""
    for name in classes:
        fits = len(name) <= _LONGEST_NAME and name.isprintable() and "\\" not in name
        require(fits, "a class's name in DICOM", f"at most {_LONGEST_NAME} printable characters, no backslash", name)
    if not all(any(letter.isalpha() for letter in name) for name in classes):
        msg = (
            f"the classes of this model must have names to stand in a report, they are called {', '.join(classes)}: "
            "give --names, one for each in this order"
        )
        raise ConfigError(msg)


def _on_scan(lungs: Lungs, volume: Volume) -> UInt8[np.ndarray, "z y x"]:
    """Labels of lungs on the scan's own grid, whatever grid a mask came on."""
    if lungs.labels.shape == volume.shape and np.array_equal(lungs.affine, volume.affine):
        return lungs.labels
    right, left = (
        sample_mask(lungs.part(side), lungs.affine, volume.affine, volume.shape) for side in ("right", "left")
    )
    return np.where(right, 1, np.where(left, 2, 0)).astype(np.uint8)
