"""The map as a parametric map: log odds on the source's slices, in pixels about as large as the model's voxels."""

import math

import highdicom as hd
import numpy as np
from highdicom import pm
from jaxtyping import Float32
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from hilum.predicting.explain.heat_map import HeatMap
from hilum.preparing.resample import sample
from hilum.serving.dicom_out.identity import RESEARCH, equipment
from hilum.serving.dicom_out.placement import placed
from hilum.serving.dicom_out.references import References
from hilum.serving.scan_result import ScanResult
from hilum.volume import Volume

_QUANTITIES = {
    "occlusion": codes.DCM.Saliency,
    "integrated-gradients": codes.DCM.Saliency,
    "hirescam": codes.DCM.ClassActivation,
    "gradcam": codes.DCM.GradientWeightedClassActivation,
}


def parametric_map(result: ScanResult, references: References, heat_map: HeatMap) -> Dataset | None:
    """The map of one output on the slices that cross the model's box; None where no slice does."""
    values, slices, first, pixel = on_planes(result, references, heat_map)
    if not len(slices):
        return None
    limit = float(np.abs(heat_map.values).max()) or 1.0
    mapping = pm.RealWorldValueMapping(
        lut_label="LOG_ODDS",
        lut_explanation=f"Added to the log odds of {heat_map.output}"[:64],
        unit=codes.UCUM.NoUnits,
        value_range=(-limit, limit),
        slope=1,
        intercept=0,
        quantity_definition=_QUANTITIES[heat_map.method],
    )
    window = hd.VOILUTTransformation(  # LINEAR would have widths of at least 1, PS3.3 C.11.2.1.3
        window_center=0.0, window_width=2 * limit, voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT
    )
    made = pm.ParametricMap(
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label="MAP",
        content_description="Shows what the output depends on; locates no disease",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        **placed(result.source, references, slices=slices, first=first, pixel=pixel),
        **equipment(result.model_digest, "map"),
    )
    made.ImageComments = f"{RESEARCH}. {heat_map.meaning} {heat_map.doubt}".strip()
    return made


def on_planes(
    result: ScanResult, references: References, heat_map: HeatMap
) -> tuple[Float32[np.ndarray, "n rows columns"], list[int], tuple[float, float], int]:
    """A map on the slices of the source that cross the model's box, in pixels that are not larger than its voxels.

    Returns:
        Values; the numbers of the measured slices; row and column of the centre of the first pixel and the edge of a
        pixel, in pixels of the source.
    """
    turn = result.source.turn
    assert turn is not None  # a result is of DICOM  # noqa: S101
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.array(heat_map.values.shape) - 0.5
    box = np.linalg.inv(references.planes) @ heat_map.affine @ np.c_[corners, np.ones(8)].T
    low, high = box[:3].min(axis=1), box[:3].max(axis=1)
    spacing = np.linalg.norm(references.planes[:3, :3], axis=0)
    voxel_mm = float(np.linalg.norm(heat_map.affine[:3, :3], axis=0).min())
    pixel = max(1, math.floor(voxel_mm / float(max(spacing[1:]))))
    start = [max(0, math.floor(low[axis] + 0.5)) for axis in (1, 2)]
    stop = [min(turn.shape[axis], math.ceil(high[axis] + 0.5)) for axis in (1, 2)]
    rows, columns = (max(1, (b - a) // pixel) for a, b in zip(start, stop, strict=True))
    first = (start[0] + pixel / 2 - 0.5, start[1] + pixel / 2 - 0.5)
    slices = [n for n, one in enumerate(result.source.slices) if low[0] <= one.plane <= high[0]]
    if not slices or min(b - a for a, b in zip(start, stop, strict=True)) < 1:
        return np.zeros((0, rows, columns), np.float32), [], first, pixel
    planes = [result.source.slices[n].plane for n in slices]
    affine = references.planes.copy()
    affine[:3, 3] = (references.planes @ [planes[0], *first, 1.0])[:3]
    affine[:3, 1:3] *= pixel
    seen = Volume(voxels_hu=np.ascontiguousarray(heat_map.values, np.float32), affine=heat_map.affine)
    values = sample(seen, affine, (planes[-1] - planes[0] + 1, rows, columns), air=0.0)
    return np.ascontiguousarray(values[np.array(planes) - planes[0]]), slices, first, pixel
