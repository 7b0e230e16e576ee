"""Voxels and their affine as images of SimpleITK, nibabel, TorchIO and MONAI, and back.

SimpleITK's arrays are (z, y, x) and its world is LPS, as Hilum's. nibabel, TorchIO and MONAI have arrays (x, y, z) and
an RAS world: axes are named in the other order, and two axes of the world are mirrored. No voxel is computed anew.
"""

import importlib
import zlib
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int16, Num

from hilum.errors import ConfigError, GeometryError, ReadError

HUAndAffine: TypeAlias = tuple[Int16[np.ndarray, "z y x"] | Float32[np.ndarray, "z y x"], Float[np.ndarray, "4 4"]]
"""HU (z, y, x), and the affine from index (z, y, x) to LPS mm (x, y, z)."""

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From LPS to RAS mm, and back."""

_NIFTI_LONGEST = 32767
"""Largest number of voxels along an axis: NIfTI-1 stores it as int16."""

MM_PER_NIFTI_UNIT = {1: 1000.0, 2: 1.0, 3: 1e-3}
"""Millimetres per unit, by the three lowest bits of a NIfTI header's xyzt_units; others are taken as mm."""

_RIGHT_ANGLE = 1e-4
"""Largest product of two directions that still counts as a right angle, as formats round them; ITK takes them as they
are, so that no voxel moves."""


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


def from_sitk(image: Any) -> HUAndAffine:
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


def to_nibabel(voxels: Num[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]) -> Any:
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
    image.set_sform(_to_ras(affine), code="scanner")
    image.set_qform(None, code="unknown")  # a qform cannot represent shear, and would repeat the sform otherwise
    image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0)[::-1].tolist())
    image.header.set_slope_inter(1, 0)
    return image


def from_nibabel(image: Any) -> HUAndAffine:
    """HU and affine of an image of nibabel: its ``affine``, in the units of its header.

    Raises:
        GeometryError: If it is not a three-dimensional image of single numbers, or a NIfTI image without a position.
        ReadError: If its voxels lie in a file that cannot be read.
    """
    import nibabel
    from nibabel.spatialimages import SpatialImage

    if not isinstance(image, SpatialImage) or image.affine is None:
        msg = f"a volume must come from an image of nibabel with an affine, got {_kind(image)}"
        raise GeometryError(msg)
    unit = 1.0
    if isinstance(image.header, nibabel.Nifti1Header):
        if not (int(image.header["sform_code"]) or int(image.header["qform_code"])):
            msg = "the header of a NIfTI image must say where the scan lies, neither its sform nor its qform has a code"
            raise GeometryError(msg, hint="image.set_sform(affine, code='scanner')")
        unit = MM_PER_NIFTI_UNIT.get(int(image.header["xyzt_units"]) & 7, 1.0)
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as exc:  # voxels are read from the file only now
        msg = f"the voxels of the image cannot be read: {str(exc).splitlines()[0] if str(exc) else type(exc).__name__}"
        raise ReadError(msg) from exc
    if values.dtype.names:
        msg = "a volume must hold single numbers, this image holds colours"
        raise GeometryError(msg)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return _from_ras(values, np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, np.float64))


def to_torchio(voxels: Num[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"], *, is_mask: bool) -> Any:
    """Convert to a ``torchio.ScalarImage``, or for a mask to a ``torchio.LabelMap``.

    Raises:
        ConfigError: If TorchIO is not installed.
    """
    torchio = _library("torchio", "TorchIO")
    kind = torchio.LabelMap if is_mask else torchio.ScalarImage
    return kind(tensor=_xyz(voxels)[np.newaxis], affine=_to_ras(affine))


def from_torchio(image: Any) -> HUAndAffine:
    """HU and affine of a ``torchio.ScalarImage`` or ``LabelMap``.

    Raises:
        GeometryError: If it is no such image of one channel.
        ConfigError: If TorchIO is not installed.
    """
    if not isinstance(image, _library("torchio", "TorchIO").Image):
        msg = f"a volume must come from an image of TorchIO, got {_kind(image)}"
        raise GeometryError(msg)
    return _from_ras(_one_channel(_numbers(image.data)), np.asarray(image.affine, np.float64))


def to_monai(voxels: Num[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]) -> Any:
    """Convert to a ``monai.data.MetaTensor`` (1, x, y, z) with an RAS affine, as MONAI's ``LoadImage`` gives it.

    Raises:
        ConfigError: If MONAI is not installed.
    """
    monai = _library("monai.data", "MONAI")
    ras = _to_ras(affine)
    meta = {"original_affine": ras.copy(), "spatial_shape": np.array(voxels.shape[::-1]), "space": "RAS"}
    return monai.MetaTensor(_xyz(voxels)[np.newaxis], affine=ras, meta=meta)


def from_monai(image: Any) -> HUAndAffine:
    """HU and affine of a ``monai.data.MetaTensor``, (1, x, y, z) or (x, y, z).

    Raises:
        GeometryError: If it is no such tensor, its transforms are not carried out yet, or its space is unknown.
        ConfigError: If MONAI is not installed.
    """
    if not isinstance(image, _library("monai.data", "MONAI").MetaTensor):
        msg = f"a volume must come from a MetaTensor of MONAI, got {_kind(image)}"
        raise GeometryError(msg)
    if image.has_pending_operations:
        msg = "a volume must come from a MetaTensor whose transforms are carried out, this one has lazy ones"
        raise GeometryError(msg, hint="monai.transforms.lazy.functional.apply_pending carries them out")
    if image.ndim > 4:
        msg = f"a volume must come from one image, got a batch of shape {tuple(image.shape)}"
        raise GeometryError(msg, hint="take one with batch[0]")
    space = str(image.meta.get("space", "RAS"))
    if space not in ("RAS", "LPS"):
        msg = f"the space of a MetaTensor must be RAS or LPS, is {space}"
        raise GeometryError(msg)
    values = _numbers(image)
    affine = image.affine.cpu().double().numpy()
    if affine.shape != (4, 4):
        msg = f"a volume must have an affine 4 x 4, got {' x '.join(map(str, affine.shape))}"
        raise GeometryError(msg)
    return _from_ras(
        _one_channel(values) if values.ndim == 4 else values, RAS_FROM_LPS @ affine if space == "LPS" else affine
    )


def _xyz(voxels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(voxels.transpose(2, 1, 0))


def _to_ras(affine: np.ndarray) -> np.ndarray:
    """Affine from index (x, y, z) to RAS mm."""
    ras: np.ndarray = RAS_FROM_LPS @ affine[:, [2, 1, 0, 3]]
    return ras


def _from_ras(values: np.ndarray, ras: np.ndarray) -> HUAndAffine:
    """HU (z, y, x) and their LPS affine, of an array (x, y, z) and its RAS affine."""
    if values.ndim != 3:
        msg = f"a volume must come from a three-dimensional image, got one of shape {tuple(values.shape)}"
        raise GeometryError(msg)
    hu = hu_array(values.transpose(2, 1, 0))
    own = hu.copy() if np.shares_memory(hu, values) else hu  # of an image, or of a file that may change
    return own, (RAS_FROM_LPS @ ras)[:, [2, 1, 0, 3]]


def _numbers(tensor: Any) -> np.ndarray:
    """The values of a tensor that may need gradients, lie on a GPU, or be in bf16, which NumPy has not."""
    plain = tensor.detach().cpu()
    values: np.ndarray = (plain.float() if plain.is_floating_point() else plain).numpy()
    return values


def _one_channel(values: np.ndarray) -> np.ndarray:
    """The array (x, y, z) of one (1, x, y, z)."""
    if values.ndim != 4 or len(values) != 1:
        msg = f"a volume must come from an image (1, x, y, z) of one channel, got shape {tuple(values.shape)}"
        raise GeometryError(msg)
    one: np.ndarray = values[0]
    return one


def _kind(image: object) -> str:
    return f"{type(image).__module__.split('.')[0]}.{type(image).__name__}"


def _library(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.split(".")[0]
        msg = f"images of {name} need the package {package}"
        raise ConfigError(msg, hint=f"pip install {package}") from exc
