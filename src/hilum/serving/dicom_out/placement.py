"""Where the frames of an object lie: on the slices of the source, with its pixels or with larger ones."""

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np

from hilum.reading.source import ScanSource
from hilum.serving.dicom_out.references import References


def placed(
    source: ScanSource,
    references: References,
    *,
    slices: Sequence[int] | None = None,
    first: tuple[float, float] = (0.0, 0.0),
    pixel: int = 1,
) -> dict[str, Any]:
    """The arguments of highdicom's constructors that say where frames lie, and what they refer to.

    Args:
        source: The scan.
        references: Its headers.
        slices: Numbers of the measured slices that have a frame; None: all.
        first: Row and column, in pixels of the source, of the centre of each frame's first pixel.
        pixel: Edge of a pixel in pixels of the source.
    """
    chosen = range(len(source.slices)) if slices is None else slices
    down, across = references.planes[:3, 1], references.planes[:3, 2]
    rows, columns = float(np.linalg.norm(down)), float(np.linalg.norm(across))
    patient = hd.CoordinateSystemNames.PATIENT
    positions = [np.array(source.slices[n].position_mm) + first[0] * down + first[1] * across for n in chosen]
    files = [references.files[references.of_slices[n][0]] for n in chosen]
    images: dict[str, Any] = {"source_images": files}
    if references.are_frames:  # highdicom infers references to frames from the first of such files alone
        images = {"source_images": references.files[:1]}
        images |= {"further_source_images": references.files[1:]} if len(references.files) > 1 else {}
    return {
        **images,
        "plane_positions": [hd.PlanePositionSequence(patient, [float(v) for v in one]) for one in positions],
        "plane_orientation": hd.PlaneOrientationSequence(
            patient, [float(v) for v in (*(across / columns), *(down / rows))]
        ),
        "pixel_measures": hd.PixelMeasuresSequence([rows * pixel, columns * pixel], references.thickness_mm),
    }
