"""NIfTI, NRRD and MetaImage files to a Volume, read by SimpleITK, whose world is LPS like ours."""

import re
from pathlib import Path

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.findings import find
from hilum.reading.geometry import FEW_SLICES
from hilum.reading.intensities import intensity_findings, limited
from hilum.volume import Volume, reorient

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
    if named and all(file.is_file() for file in named):
        return named
    return [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]


def read_image(path: Path) -> Volume:
    """One image file as a Volume.

    Raises:
        ReadError: If the file is damaged or is not one three-dimensional image of HU.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IO[image_suffix(path)])
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = reader.Execute()
    except (RuntimeError, MemoryError) as exc:
        msg = f"{path.name} cannot be read: {_reason(exc)}"
        raise ReadError(msg) from exc
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    if image.GetNumberOfComponentsPerPixel() != 1:
        msg = f"{path.name} must have one value in each voxel, has {image.GetNumberOfComponentsPerPixel()}"
        raise ReadError(msg)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:  # the header gives the spacing, two slices are a crop
        msg = f"{path.name} must be a volume of at least 2 slices, is {' x '.join(map(str, image.GetSize()))}"
        raise GeometryError(msg)
    voxels, num_padding, num_metal = limited(sitk.GetArrayViewFromImage(image))
    whole = voxels.dtype.kind in "iu" or bool(np.all(voxels == np.rint(voxels)))
    volume = Volume(voxels_hu=voxels.astype(np.int16 if whole else np.float32), affine=_affine(image))
    findings = intensity_findings(num_padding, num_metal, volume.voxels_hu.size)
    if volume.shape[0] < FEW_SLICES:
        findings.append(find("few-slices", f"only {volume.shape[0]} slices", path.name))
    return reorient(volume.with_findings(*findings))


def _affine(image: object) -> np.ndarray:
    """Index (z, y, x) to LPS mm from ITK's direction (columns x, y, z), spacing and origin."""
    direction = np.array(image.GetDirection()).reshape(3, 3)  # type: ignore[attr-defined]
    affine = np.eye(4)
    affine[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]  # type: ignore[attr-defined]
    affine[:3, 3] = image.GetOrigin()  # type: ignore[attr-defined]
    return affine


def _reason(error: BaseException) -> str:
    """The sentence in ITK's report, without source lines and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else "unknown reason"
    text = re.sub(r"^(ITK ERROR|sitk::ERROR):\s*", "", re.sub(r"\w+\(0x[0-9a-f]+\):\s*", "", text))
    return re.sub(r"(/[^\s\"']*/)", "", text)
