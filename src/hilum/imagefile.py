"""Writes voxels and their affine as NIfTI, NRRD or MetaImage."""

import contextlib
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num

from hilum.errors import ConfigError, HilumError
from hilum.files import cores, new_file
from hilum.interchange import to_nibabel, to_sitk

WRITTEN_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")

GZIP_LEVEL = 6
"""Level of compression where none is given: a twentieth smaller than 1, and no slower than zlib at 1."""

_GZIP_MAGIC = b"\x1f\x8b"
_MARK_FIELD = "Hilum"
"""Field of an NRRD or MetaImage header that holds a mark."""


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
    header = to_nibabel(voxels, affine).header
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
