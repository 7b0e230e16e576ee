"""A map of a prepared sample: what each part adds to the log odds of one output, and where its peak lies."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage

from hilum.volume import Affine

_AGREEING = 0.5
"""Correlation of the falls by both fills of occlusion under which a map is in doubt (rule of thumb)."""

_TOP = 0.8
"""Share of the largest value above which voxels belong to the peak: its centre moves little where windows do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """What each voxel of a prepared sample adds to the log odds of one output.

    Attributes:
        values: Positive where the image speaks for the output; of an ensemble the mean of its members' maps.
        spread: Standard deviation of the members' maps; None for one network.
        affine: Index (z, y, x) to LPS mm.
        output: Name of the class or label.
        method: ``occlusion``, ``hirescam``, ``gradcam`` or ``integrated-gradients``.
        settings: Settings of the method in words and numbers, for JSON.
        log_odds: Log odds of the output for the sample, before calibration.
    """

    values: Float32[np.ndarray, "z y x"]
    spread: Float32[np.ndarray, "z y x"] | None
    affine: Affine
    output: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    log_odds: float

    @property
    def meaning(self) -> str:
        """What it shows, in a sentence that stands wherever it is shown."""
        shows = "It shows" if self.method == "occlusion" else "It estimates by gradients"
        return f"{shows} where replacing the image changes this model's output; it locates no disease."

    @property
    def doubt(self) -> str:
        """Why its peak may mean nothing, in a sentence; empty if nothing speaks against it."""
        agreement = self.settings.get("fill_agreement", 1.0)
        if agreement is not None and agreement >= _AGREEING:
            return ""
        found = "cannot be compared" if agreement is None else f"agree little, by a correlation of {agreement:.2f}"
        return f"The two fills of occlusion {found}: this map shows the fill as much as the image."

    @property
    def peak_index(self) -> Float64[np.ndarray, "3"] | None:
        """Centre of the peak, a continuous index (z, y, x); None if nothing speaks for the output.

        It is the centre of the voxels around the largest value that exceed four fifths of it, weighted by the excess.
        """
        top = float(self.values.max())
        if not top > 0:
            return None
        excess = np.maximum(self.values - _TOP * top, 0).astype(np.float64)
        parts, _ = ndimage.label(excess > 0, np.ones((3, 3, 3)))
        excess[parts != parts.ravel()[self.values.argmax()]] = 0
        return np.array(ndimage.center_of_mass(excess))

    @property
    def peak_mm(self) -> Float64[np.ndarray, "3"] | None:
        """Centre of the peak in LPS mm (x, y, z); None if nothing speaks for the output."""
        index = self.peak_index
        return None if index is None else self.affine[:3, :3] @ index + self.affine[:3, 3]
