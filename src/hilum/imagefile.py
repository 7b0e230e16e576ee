"""Voxels and their affine as a SimpleITK image and back, and as NIfTI, NRRD or MetaImage on disk."""

import contextlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int16, Num

from hilum.errors import ConfigError, GeometryError, HilumError
from hilum.files import cores, new_file

WRITTEN_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

GZIP_LEVEL = 6
"""Level of compression where none is given: a twentieth smaller than 1, and no slower than zlib at 1."""

_GZIP_MAGIC = b"\x1f\x8b"
_MARK_FIELD = "Hilum"
"""Field of an NRRD or MetaImage header that holds a mark."""

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI_LONGEST = 32767
"""Largest number of voxels along an axis: NIfTI-1 stores it as int16."""

_RIGHT_ANGLE = 1e-6
"""Largest product of two directions that still counts as a right angle; ITK's own limit is wider."""


def hu_array(values: Any) -> Int16[np.ndarray, "z y x"] | Float32[np.ndarray, "z y x"]:
    """Convert a three-dimensional array to HU: integers that fit become int16, all others float32.

    Raises:
        GeometryError: If it is not a three-dimensional array of numbers that float32 holds.
    """
    try:
        array = np.asarray(values)
    except ValueError as exc:
        msg = f"HU must be a numeric array (z, y, x): {exc}"
        raise GeometryError(msg) from exc
    if array.ndim != 3 or array.dtype.kind not in "iufb":
        msg = f"HU must be a numeric array (z, y, x), got {array.dtype} of shape {array.shape}"
        raise GeometryError(msg)
    limits = np.iinfo(np.int16)
    if array.dtype.kind in "iub" and array.size and limits.min <= array.min() and array.max() <= limits.max:
        return np.ascontiguousarray(array, np.int16)
    with np.errstate(over="ignore"):
        hu = np.ascontiguousarray(array, np.float32)
    is_held = np.array_equal(hu, array) if array.dtype.kind in "iub" else not (np.isinf(hu) & np.isfinite(array)).any()
    if not is_held:
        msg = "HU must be numbers that float32 holds, integers exactly, got larger ones"
        raise GeometryError(msg)
    return hu


def to_sitk(voxels: Num[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]) -> Any:
    """Convert to a ``SimpleITK.Image``, whose coordinates are LPS too.

    Raises:
        GeometryError: If the grid is sheared, which ITK cannot represent.
    """
    import SimpleITK as sitk

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), rtol=0, atol=_RIGHT_ANGLE):
        msg = "ITK holds only grids with right angles, this one is sheared; write it as NIfTI, or resample it"
        raise GeometryError(msg)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetDirection([float(d) for d in direction[:, ::-1].ravel()])
    image.SetOrigin([float(o) for o in affine[:3, 3]])
    return image


def from_sitk(image: Any) -> tuple[Int16[np.ndarray, "z y x"] | Float32[np.ndarray, "z y x"], Float[np.ndarray, "4 4"]]:
    """HU and affine of a ``SimpleITK.Image``.

    Raises:
        GeometryError: If it is not a three-dimensional image with one number per voxel.
    """
    import SimpleITK as sitk

    if not isinstance(image, sitk.Image) or image.GetPixelIDTypeAsString().startswith("label"):
        msg = f"a volume must come from a SimpleITK.Image of numbers, got labels or a {type(image).__name__}"
        raise GeometryError(msg)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        msg = (
            "a volume must come from a three-dimensional image of single numbers, got "
            f"{image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} numbers in a voxel"
        )
        raise GeometryError(msg)
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return hu_array(sitk.GetArrayFromImage(image)), affine


def write_image(
    voxels: Num[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
    path: Path,
    *,
    level: int = GZIP_LEVEL,
    mark: str = "",
) -> None:
    """Write a new image file atomically, in the format of its suffix; voxels are stored unscaled.

    NIfTI-1 stores the affine as float32 in its sform, including shear; NRRD and MetaImage store it as float64 and
    cannot represent shear. A .nii.gz is compressed on all cores.

    Args:
        voxels: Numbers of a type that the format holds.
        affine: Index (z, y, x) to LPS mm.
        path: The file, which must not exist.
        level: Level of compression, 1 (fast) to 9 (small); a .nii is not compressed.
        mark: A text in the header by which ``has_mark`` recognises the file.

    Raises:
        ConfigError: If the suffix is unknown.
        GeometryError: If the format cannot represent the grid.
        HilumError: If the file exists or cannot be written.
    """
    written_suffix(path)
    if path.exists() or path.is_symlink():
        msg = "exists already; name another file, or remove it"
        raise HilumError(msg, path=path)
    replace_image(voxels, affine, path, level=level, mark=mark)


def replace_image(
    voxels: Num[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
    path: Path,
    *,
    level: int = GZIP_LEVEL,
    mark: str = "",
) -> None:
    """The same as ``write_image``, for a file that may exist and is then replaced; a caller asks whose it is."""
    suffix = written_suffix(path)
    try:
        with new_file(path, suffix=suffix) as new:
            if ".nii" in suffix:
                _write_nifti(voxels, affine, new, level=level, mark=mark)
            else:
                _write_itk(voxels, affine, new, level=level, mark=mark)
    except RuntimeError as exc:  # of ITK
        msg = f"cannot be written: {str(exc).splitlines()[-1]}"
        raise HilumError(msg, path=path) from exc


def written_suffix(path: Path) -> str:
    """The suffix that chooses the format of a file to write.

    Raises:
        ConfigError: If it is none of ``WRITTEN_SUFFIXES``.
    """
    suffix = next((one for one in (".nii.gz", *WRITTEN_SUFFIXES) if path.name.lower().endswith(one)), None)
    if suffix is None:
        msg = f"an image file must be named one of {', '.join(WRITTEN_SUFFIXES)}, got {path.name}"
        raise ConfigError(msg)
    return suffix


def has_mark(path: Path, mark: str) -> bool:
    """Whether ``write_image`` wrote a file with this mark."""
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return False
    if start.startswith(_GZIP_MAGIC):
        with contextlib.suppress(zlib.error):
            start = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(start, 1 << 12)
    return mark.encode() in start[: 1 << 12]


def _write_itk(voxels: np.ndarray, affine: np.ndarray, path: Path, *, level: int, mark: str) -> None:
    import SimpleITK as sitk

    image = to_sitk(voxels, affine)
    if mark:
        image.SetMetaData(_MARK_FIELD, mark)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=level)


def _write_nifti(voxels: np.ndarray, affine: np.ndarray, path: Path, *, level: int, mark: str) -> None:
    header = nifti_image(voxels, affine).header
    header["descrip"] = mark
    words = np.ascontiguousarray(voxels, header.get_data_dtype())
    content = words.reshape(-1).view(np.uint8).data
    if path.name.endswith(".gz"):
        from zlib_ng import gzip_ng_threaded

        with (
            path.open("xb") as file,
            gzip_ng_threaded.open(file, "wb", compresslevel=level, threads=cores()) as packed,
        ):
            header.write_to(packed)
            packed.write(content)
    else:
        with path.open("xb") as file:
            header.write_to(file)
            file.write(content)


def nifti_image(voxels: Num[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]) -> Any:
    """Convert to a ``nibabel.Nifti1Image`` with unscaled voxels and the affine in its sform, including shear.

    Raises:
        GeometryError: If NIfTI-1 cannot represent the grid.
    """
    import nibabel

    if max(voxels.shape) > _NIFTI_LONGEST:
        msg = f"NIfTI-1 holds at most {_NIFTI_LONGEST} voxels along an axis, got {' x '.join(map(str, voxels.shape))}"
        raise GeometryError(msg)
    if np.abs(affine).max() > np.finfo(np.float32).max:
        msg = "NIfTI-1 holds an affine in float32, this one has larger numbers"
        raise GeometryError(msg)
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), None)
    image.header.set_xyzt_units("mm")
    image.set_sform(_RAS_FROM_LPS @ affine[:, [2, 1, 0, 3]], code="scanner")
    image.set_qform(None, code="unknown")  # a qform cannot represent shear, and would repeat the sform otherwise
    image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0)[::-1].tolist())
    image.header.set_slope_inter(1, 0)
    return image
