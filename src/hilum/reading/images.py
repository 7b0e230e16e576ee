"""NIfTI, NRRD and MetaImage files to a Volume, read by SimpleITK, whose world is LPS like ours."""

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.findings import find
from hilum.reading.geometry import FEW_SLICES
from hilum.reading.intensities import intensity_findings, limited
from hilum.reading.nifti import nifti_layout, undefined_voxels
from hilum.volume import Volume, reorient

_QUIET = threading.Lock()

_IO = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}


def image_suffix(path: Path) -> str:
    """The suffix by which an image file is read, or an empty string."""
    name = path.name.lower()
    return next((s for s in _IO if name.endswith(s)), "")


def detached_files(path: Path) -> list[Path]:
    """The files that hold the voxels of a header (.mhd, .nhdr); none where the file holds them itself.

    Where the header does not name them one by one, all files beside it.
    """
    if path.suffix.lower() not in {".mhd", ".nhdr"} or not path.is_file():
        return []
    names = re.findall(r"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", path.read_text("latin-1"), re.M | re.I)
    named = [path.parent / name for name in names]
    for file in named:
        if not file.resolve().is_relative_to(path.parent.resolve()):
            msg = f"{path.name} must hold its voxels or name files beside it, names {file.name} in another folder"
            raise ReadError(msg)
    if named and all(file.is_file() for file in named):
        return named
    return [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]


def read_image(path: Path) -> Volume:
    """One image file as a Volume.

    Raises:
        ReadError: If the file is damaged or is not one three-dimensional image of HU.
    """
    import SimpleITK as sitk

    detached_files(path)  # refuses a header that names files elsewhere
    layout = nifti_layout(path) if _IO[image_suffix(path)] == "NiftiImageIO" else None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IO[image_suffix(path)])
    try:
        with _quiet():
            image = reader.Execute()
    except (RuntimeError, MemoryError) as exc:
        msg = f"{path.name} cannot be read: {_reason(exc)}"
        raise ReadError(msg) from exc
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        msg = f"{path.name} must have one real value in each voxel, has {image.GetPixelIDTypeAsString()}"
        raise ReadError(msg)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:  # the header gives the spacing, two slices are a crop
        msg = f"{path.name} must be a volume of at least 2 slices, is {' x '.join(map(str, image.GetSize()))}"
        raise GeometryError(msg)
    stored = sitk.GetArrayViewFromImage(image)
    undefined = undefined_voxels(path, layout) if layout else None
    if undefined is not None and undefined.size == stored.size:
        stored = np.where(undefined.reshape(stored.shape), np.nan, stored)
    voxels, num_padding, num_metal = limited(stored)
    whole = voxels.dtype.kind in "iu" or bool(np.all(voxels == np.rint(voxels)))
    volume = Volume(voxels_hu=voxels.astype(np.int16 if whole else np.float32), affine=_affine(image))
    findings = intensity_findings(num_padding, num_metal, volume.voxels_hu.size)
    if volume.shape[0] < FEW_SLICES:
        findings.append(find("few-slices", f"only {volume.shape[0]} slices", path.name))
    return reorient(volume.with_findings(*findings))


def _affine(image: Any) -> np.ndarray:
    """Index (z, y, x) to LPS mm from ITK's direction (columns x, y, z), spacing and origin."""
    if not all(np.isfinite(s) and s > 0 for s in image.GetSpacing()):
        msg = f"the spacing must be positive, is {image.GetSpacing()} mm (x, y, z)"
        raise GeometryError(msg)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return affine


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ITK's libraries write to the process's standard error on their own; what matters is in the exception."""
    with _QUIET, tempfile.TemporaryFile() as sink:
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _reason(error: BaseException) -> str:
    """The sentence in ITK's report, without source lines and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else "unknown reason"
    text = re.sub(r"^(ITK ERROR|sitk::ERROR):\s*", "", re.sub(r"\w+\(0x[0-9a-f]+\):\s*", "", text))
    text = re.sub(r"(/[^\s\"']*/)", "", text)
    return "its voxels are damaged or missing" if text == "Reason: Success" else text
