"""Volume: voxels in HU with an affine to patient coordinates, and pure functions that keep both consistent."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int16, Num, UInt8

from hilum import imagefile, interchange
from hilum.arrays import ArrayLike, three
from hilum.errors import ConfigError, GeometryError
from hilum.files import user_path
from hilum.findings import Finding, find
from hilum.orientation import canonical
from hilum.pages import LUNG_RGB, PICTURE_PIXELS, PLANES_CAPTION, notebook_card, three_planes, with_outlines

Voxels: TypeAlias = Int16[np.ndarray, "z y x"] | Float32[np.ndarray, "z y x"]
Affine: TypeAlias = Float[np.ndarray, "4 4"]
Triple: TypeAlias = tuple[float, float, float]

AIR_HU = -1000
LOWEST_HU, HIGHEST_HU = -1024, 3071
"""The range of a 12-bit CT scanner; below it lies padding, above it metal."""

NO_BIN = -32768
"""Value of a bin of a signature beyond the end of the scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """Acquisition tags of a file. Identifiers are keyed hashes; names, ids and dates are never kept.

    Attributes:
        modality: DICOM Modality; empty for formats without it.
        kernel: ConvolutionKernel.
        thickness_mm: SliceThickness. Never used for geometry.
        manufacturer: Manufacturer.
        model: ManufacturerModelName.
        tube_voltage_kv: KVP.
        exposure_mas: Exposure.
        series: Hash of SeriesInstanceUID.
        study: Hash of StudyInstanceUID.
        accession: Hash of AccessionNumber.
        patient: Hash of PatientID; empty where it is blank or a placeholder.
        acquisition: Hash that is equal for reconstructions of one acquisition.
    """

    modality: str = ""
    kernel: str = ""
    thickness_mm: float | None = None
    manufacturer: str = ""
    model: str = ""
    tube_voltage_kv: float | None = None
    exposure_mas: float | None = None
    series: str = ""
    study: str = ""
    accession: str = ""
    patient: str = ""
    acquisition: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceScan:
    """The whole scan from which a sample was prepared: what identifies it and altered copies of it.

    Attributes:
        digest: ``hu_digest`` of its HU; empty if it identifies nothing.
        shape: Number of voxels (z, y, x).
        spacing_mm: Distance between them (z, y, x).
        profiles: Signature: a profile along each axis in bins of 2 mm, see ``preparing.signature``.
        lungs_litres: Volume of both lungs; None where the recipe did not look for them.
    """

    digest: str
    shape: tuple[int, int, int]
    spacing_mm: Triple
    profiles: Int16[np.ndarray, "3 bins"]
    lungs_litres: float | None = None

    @property
    def extent_mm(self) -> Triple:
        """Edge lengths of the grid along (z, y, x), in mm, between the outer faces of its voxels."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return z, y, x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """A CT scan in HU on a regular grid.

    Attributes:
        voxels_hu: Array (z, y, x), int16 or float32.
        affine: 4x4 float64, from index (z, y, x, 1) to LPS mm (x, y, z, 1), at voxel centres.
        tags: Acquisition tags.
        findings: Findings of reading and preparing.
        interpolated: (axis, index) of missing slices that were interpolated from their neighbours.
        lungs: Lung mask (0 or 1) on the same grid; only for prepared samples whose recipe asks for it.
        source: For a prepared sample, the whole scan that it comes from.

    Raises:
        GeometryError: If the voxels or the affine are not such arrays, the affine is singular or not finite, there are
            no voxels, or the lung mask is on another grid.
    """

    voxels_hu: Voxels
    affine: Affine
    tags: Tags = field(default_factory=Tags)
    findings: tuple[Finding, ...] = ()
    interpolated: tuple[tuple[int, int], ...] = ()
    lungs: UInt8[np.ndarray, "z y x"] | None = None
    source: SourceScan | None = None

    def __post_init__(self) -> None:
        voxels, affine = self.voxels_hu, self.affine
        if not isinstance(voxels, np.ndarray) or voxels.ndim != 3 or voxels.dtype not in (np.int16, np.float32):
            msg = f"a volume's voxels must be an int16 or float32 array (z, y, x) of HU, got {_described(voxels)}"
            raise GeometryError(msg)
        if not isinstance(affine, np.ndarray) or affine.shape != (4, 4) or affine.dtype.kind != "f":
            msg = f"a volume's affine must be a 4 x 4 array of floats, got {_described(affine)}"
            raise GeometryError(msg)
        if self.lungs is not None and self.lungs.shape != self.voxels_hu.shape:
            msg = f"a volume's lungs must be of shape {self.voxels_hu.shape}, are of {self.lungs.shape}"
            raise GeometryError(msg)
        if self.voxels_hu.size == 0:
            msg = f"a volume must have voxels, got shape {self.voxels_hu.shape}"
            raise GeometryError(msg)
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            got = " ".join(np.array2string(self.affine, precision=3).split())
            msg = f"a volume's affine must be finite and invertible, got {got}"
            raise GeometryError(msg)
        if not np.array_equal(affine[3], [0, 0, 0, 1]):
            msg = f"the last row of a volume's affine must be 0 0 0 1, is {' '.join(f'{one:g}' for one in affine[3])}"
            raise GeometryError(msg)

    @classmethod
    def from_array(
        cls,
        hu: Any,
        *,
        spacing_mm: ArrayLike,
        origin_mm: ArrayLike = (0.0, 0.0, 0.0),
        direction: ArrayLike | None = None,
    ) -> "Volume":
        """Make a volume from an array: integers that fit become int16, all others float32.

        Args:
            hu: Array (z, y, x).
            spacing_mm: (z, y, x).
            origin_mm: Position of the first voxel, LPS (x, y, z).
            direction: 3 x 3; the columns are the LPS directions of the axes z, y and x. None: axial.

        Raises:
            GeometryError: If the arguments are not such numbers.
        """
        spacing = three(spacing_mm, "a spacing in mm (z, y, x)")
        if min(spacing) <= 0:
            msg = f"a spacing must be positive (a direction turns an axis round), got {spacing}"
            raise GeometryError(msg)
        affine = affine_from(spacing_mm=spacing, origin_mm=origin_mm)
        if direction is not None:
            columns = np.asarray(direction, np.float64)
            if columns.shape != (3, 3) or not np.allclose(np.linalg.norm(columns, axis=0), 1, atol=1e-3):
                msg = f"a direction must be a 3 x 3 array of unit columns, got {columns.tolist()}"
                raise GeometryError(msg)
            affine[:3, :3] = columns * spacing
        return cls._of(interchange.hu_array(hu), affine)

    @classmethod
    def _of(cls, voxels_hu: Voxels, affine: Affine) -> "Volume":
        """A volume in which voxels that are no numbers are air, with a finding, as ``read`` makes them."""
        if voxels_hu.dtype.kind == "i" or np.isfinite(voxels_hu).all():
            return cls(voxels_hu=voxels_hu, affine=affine)
        finite = np.nan_to_num(voxels_hu, nan=AIR_HU, neginf=AIR_HU, posinf=HIGHEST_HU)
        number = np.count_nonzero(~np.isfinite(voxels_hu))
        message = f"{number} of {voxels_hu.size} voxels are not finite; they are air now, infinite ones {HIGHEST_HU} HU"
        return cls(voxels_hu=finite, affine=affine, findings=(find("padding", message),))

    @classmethod
    def from_sitk(cls, image: Any) -> "Volume":
        """Make a volume from a three-dimensional ``SimpleITK.Image`` in HU.

        Raises:
            GeometryError: If the image is not three-dimensional, or has several numbers per voxel.
        """
        return cls._of(*interchange.from_sitk(image))

    @classmethod
    def from_nibabel(cls, image: Any) -> "Volume":
        """Make a volume from a three-dimensional image of nibabel in HU, by its ``affine``.

        ``read`` of its file also compares the sform with the qform, and orders the axes.

        Raises:
            GeometryError: If the image is not three-dimensional, or its header does not say where it lies.
        """
        return cls._of(*interchange.from_nibabel(image))

    @classmethod
    def from_torchio(cls, image: Any) -> "Volume":
        """Make a volume from a ``torchio.ScalarImage`` in HU, or from a ``torchio.LabelMap``; of one channel.

        Raises:
            GeometryError: If it is no such image.
            ConfigError: If TorchIO is not installed.
        """
        return cls._of(*interchange.from_torchio(image))

    @classmethod
    def from_monai(cls, image: Any) -> "Volume":
        """Make a volume from a ``monai.data.MetaTensor`` in HU, (1, x, y, z) or (x, y, z).

        Raises:
            GeometryError: If it is no such tensor, or transforms of it are not carried out yet.
            ConfigError: If MONAI is not installed.
        """
        return cls._of(*interchange.from_monai(image))

    def to_sitk(self, *, mask: bool = False) -> Any:
        """Convert to a ``SimpleITK.Image`` with the same HU and grid.

        Args:
            mask: The lung mask of a prepared sample instead of its HU.

        Raises:
            GeometryError: If the grid is sheared, which ITK cannot represent.
            ConfigError: If there is no lung mask.
        """
        return interchange.to_sitk(self._numbers(mask), self.affine)

    def to_nibabel(self, *, mask: bool = False) -> Any:
        """Convert to a ``nibabel.Nifti1Image`` (x, y, z), with the affine in its sform, in single precision.

        Args:
            mask: The lung mask of a prepared sample instead of its HU.

        Raises:
            GeometryError: If NIfTI-1 cannot represent the grid.
            ConfigError: If there is no lung mask.
        """
        return interchange.to_nibabel(self._numbers(mask).copy(), self.affine)

    def to_torchio(self, *, mask: bool = False) -> Any:
        """Convert to a ``torchio.ScalarImage`` of one channel (1, x, y, z) in HU.

        Args:
            mask: The lung mask of a prepared sample instead, as a ``torchio.LabelMap``.

        Raises:
            ConfigError: If TorchIO is not installed, or there is no lung mask.
        """
        return interchange.to_torchio(self._numbers(mask), self.affine, is_mask=mask)

    def to_monai(self, *, mask: bool = False) -> Any:
        """Convert to a ``monai.data.MetaTensor`` of one channel (1, x, y, z) in HU, with an RAS affine.

        Args:
            mask: The lung mask of a prepared sample instead of its HU.

        Raises:
            ConfigError: If MONAI is not installed, or there is no lung mask.
        """
        return interchange.to_monai(self._numbers(mask), self.affine)

    def _numbers(self, mask: bool) -> Num[np.ndarray, "z y x"]:
        """The HU or the lung mask."""
        if not mask:
            return self.voxels_hu
        if self.lungs is None:
            msg = "there is a lung mask only in a sample whose recipe asks for one, and in what segment_lungs gives"
            raise ConfigError(msg)
        return self.lungs

    def write(self, path: str | Path, *, level: int = imagefile.GZIP_LEVEL) -> None:
        """Write HU and affine to a new .nii, .nii.gz, .nrrd or .mha file, which ``hilum.read`` reads back.

        HU are stored as int16 or float32. NIfTI stores the affine as float32, including shear; NRRD and MetaImage as
        float64, without shear. Tags, findings and lungs are not written.

        Args:
            path: A file that does not exist yet.
            level: Level of compression, 1 (fast) to 9 (small); a .nii is not compressed.

        Raises:
            ConfigError: If the suffix is another one.
            GeometryError: If the format cannot represent the grid.
            HilumError: If the file exists or cannot be written.
        """
        imagefile.write_image(self.voxels_hu, self.affine, user_path(path), level=level)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels (z, y, x)."""
        z, y, x = self.voxels_hu.shape
        return z, y, x

    @property
    def spacing_mm(self) -> Triple:
        """Distance between neighbouring voxel centres along (z, y, x), in mm."""
        z, y, x = (round(float(s), 6) for s in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    @property
    def extent_mm(self) -> Triple:
        """Edge lengths of the grid along (z, y, x), in mm, between the outer faces of its voxels."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return z, y, x

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel, in mm^3; correct for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def centre_mm(self) -> Float[np.ndarray, "3"]:
        """Centre of the grid, LPS mm (x, y, z)."""
        return self.index_to_mm((np.array(self.shape) - 1) / 2)

    def index_to_mm(self, index: Any) -> Float[np.ndarray, "*n 3"]:
        """Convert voxel indices (..., 3) in order (z, y, x) to LPS mm (x, y, z)."""
        mm: np.ndarray = np.asarray(index, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return mm

    def mm_to_index(self, point_mm: Any) -> Float[np.ndarray, "*n 3"]:
        """Convert LPS mm (..., 3) in order (x, y, z) to continuous voxel indices (z, y, x)."""
        index: np.ndarray = (np.asarray(point_mm, np.float64) - self.affine[:3, 3]) @ np.linalg.inv(
            self.affine[:3, :3]
        ).T
        return index

    def contains_mm(self, point_mm: Any) -> bool:
        """Whether a point, LPS mm, lies inside the grid, outer half voxels included."""
        index = self.mm_to_index(point_mm)
        return bool(np.all(index >= -0.5) and np.all(index <= np.array(self.shape) - 0.5))

    def pictures(self) -> list[UInt8[np.ndarray, "y x rgb"]]:
        """Axial, coronal and sagittal pictures through the middle, with the outline of the lungs if they are known."""
        turn, affine = canonical(self.affine, self.shape)
        z, y, x = (float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
        middle = tuple(n // 2 for n in turn.turned(self.voxels_hu).shape)
        inside = np.zeros(self.shape, bool) if self.lungs is None else self.lungs > 0
        hu, lungs = (
            three_planes(turn.turned(one), (z, y, x), middle, PICTURE_PIXELS) for one in (self.voxels_hu, inside)
        )
        return [with_outlines(plane, [(mask, LUNG_RGB)]) for plane, mask in zip(hu, lungs, strict=True)]

    def _repr_html_(self) -> str:
        """Three planes through the middle with facts and findings, for notebooks."""
        shape, spacing = (" x ".join(f"{n:.4g}" for n in each) for each in (self.shape, self.spacing_mm))
        kernel = f", kernel {self.tags.kernel}" if self.tags.kernel else ""
        return notebook_card(
            f"CT of {shape} voxels of {spacing} mm (z, y, x){kernel}",
            planes=self.pictures(),
            caption=PLANES_CAPTION,
            findings=self.findings,
        )

    def with_findings(self, *findings: Finding) -> "Volume":
        """The same volume with further findings."""
        return replace(self, findings=(*self.findings, *findings))


def affine_from(*, spacing_mm: ArrayLike, origin_mm: ArrayLike) -> Affine:
    """Affine of an axial grid: spacing (z, y, x) and the LPS position (x, y, z) of the first voxel, in mm.

    Raises:
        GeometryError: If either is not three numbers.
    """
    affine = np.eye(4)
    z, y, x = three(spacing_mm, "a spacing in mm (z, y, x)")
    affine[:3, :3] = [[0, 0, x], [0, y, 0], [z, 0, 0]]
    affine[:3, 3] = three(origin_mm, "an origin in LPS mm (x, y, z)")
    return affine


def _described(value: object) -> str:
    """Data type and shape of an array, or the type of another value."""
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def crop(volume: Volume, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Volume:
    """Crop from index ``start`` up to, not including, ``stop``, both (z, y, x); the affine is updated.

    Raises:
        GeometryError: If the box is empty or reaches outside the volume.
    """
    if not all(0 <= a < b <= n for a, b, n in zip(start, stop, volume.shape, strict=True)):
        msg = f"a crop must lie inside the volume of shape {volume.shape}, got {start} to {stop}"
        raise GeometryError(msg)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.index_to_mm(start)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    voxels = np.ascontiguousarray(volume.voxels_hu[box])
    lungs = None if volume.lungs is None else np.ascontiguousarray(volume.lungs[box])
    made = tuple((a, i - start[a]) for a, i in volume.interpolated if start[a] <= i < stop[a])
    return replace(volume, voxels_hu=voxels, affine=affine, interpolated=made, lungs=lungs)


def clip(volume: Volume, low_hu: float, high_hu: float) -> Volume:
    """Clip the voxels to [low_hu, high_hu]."""
    dtype = volume.voxels_hu.dtype
    if dtype.kind == "i":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        low_hu, high_hu = (round(min(max(limit, least), most)) for limit in (low_hu, high_hu))
    return replace(volume, voxels_hu=np.clip(volume.voxels_hu, dtype.type(low_hu), dtype.type(high_hu)))


def reorient(volume: Volume) -> Volume:
    """Reorient a scan so that its axes run feet to head, front to back and right to left, without interpolation.

    Axes are permuted and flipped so that each runs along its nearest world axis. An oblique or sheared grid stays so.
    Directions, spacing and origin are rounded to what every file format can store, so that one scan has the same
    affine in all formats.
    """
    turn, affine = canonical(volume.affine, volume.shape)
    made = tuple(turn.moved(axis, index) for axis, index in volume.interpolated)
    voxels = np.ascontiguousarray(turn.turned(volume.voxels_hu))
    lungs = None if volume.lungs is None else np.ascontiguousarray(turn.turned(volume.lungs))
    return replace(volume, voxels_hu=voxels, affine=affine, interpolated=made, lungs=lungs)
