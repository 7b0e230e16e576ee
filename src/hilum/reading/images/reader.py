"""NIfTI, NRRD and MetaImage files to a Volume."""

from pathlib import Path

import numpy as np

from hilum.orientation import canonical
from hilum.reading.alternation import alternation_findings
from hilum.reading.decoder_pool import decoding
from hilum.reading.geometry import FEW_SLICES, grid_findings
from hilum.reading.images.files import detached_files
from hilum.reading.rescale import intensity_findings, limited, settle
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

_AS_USUAL = ReadingConfig()


def read_image(path: Path, reading: ReadingConfig = _AS_USUAL) -> Volume:
    """One image file as a Volume, with findings on its grid and its values; none of them is judged here.

    Args:
        path: The file; its voxels may lie in others beside it.
        reading: The policy, and the memory that the voxels may take.

    Raises:
        ReadError: If the file is damaged or too large.
        GeometryError: If it is not one three-dimensional image.
    """
    detached_files(path)  # refuses a header that names files elsewhere
    rules = reading.rules
    num_low = num_metal = 0
    with decoding(path, "image", max_bytes=reading.max_bytes) as answer:
        assert answer.affine is not None  # noqa: S101
        turn, affine = canonical(answer.affine, answer.shape)
        voxels = np.empty([turn.shape[axis] for axis in turn.order], answer.dtype)
        stored = turn.unturned(voxels)  # a view: voxels are written to where they end up
        for z, plane in enumerate(answer.planes()):
            stored[z], low, metal = limited(plane)
            num_low, num_metal = num_low + low, num_metal + metal
    num_padding, num_noise = settle(voxels) if num_low else (0, 0)
    volume = Volume(voxels_hu=voxels, affine=affine)
    findings = [rules.find(code, message) for code, message in answer.doubts]
    findings += grid_findings(affine, rules)
    findings += intensity_findings(num_padding, num_noise, num_metal, voxels.size, rules)
    findings += alternation_findings(stored, range(len(stored)), rules)  # along the axis of the slices
    if volume.shape[0] < FEW_SLICES:
        findings.append(rules.find("few-slices", f"only {volume.shape[0]} slices"))
    return volume.with_findings(*findings)
