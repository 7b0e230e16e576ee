"""Image files written field by field by the test, which knows where each voxel lies and how many HU it has."""

import gzip
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hilum.errors import GeometryError, PrepareError, ReadError
from hilum.preparing.lungs.masks import read_lungs
from hilum.reading.doctor import examine
from hilum.reading.images.files import detached_files
from hilum.reading.reader import read
from hilum.settings.run import ReadingConfig
from hilum.simulating import plan_cohort, simulate_case
from hilum.volume import Volume

RAS, LPS, LAS = (-1, -1, 1), (1, 1, 1), (1, -1, 1)
"""Signs that turn positions in a file's axes into LPS."""

NIFTI_TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024}
LENIENT = ReadingConfig(policy="lenient")


def _indices(sizes) -> np.ndarray:
    """All indices (i, j, k) of a grid, the first axis fastest, as files hold their voxels."""
    k, j, i = np.indices(sizes[::-1])
    return np.stack([i.ravel(), j.ravel(), k.ravel()], 1)


def _assert_voxels(volume: Volume, lps_mm: np.ndarray, hu: np.ndarray) -> None:
    """Each voxel of the file lies where the test put it, and has the HU that it wrote."""
    index = np.rint(volume.mm_to_index(lps_mm)).astype(int)
    assert volume.voxels_hu.size == len(np.unique(index, axis=0)) == len(hu)
    assert (index >= 0).all()
    assert (index < volume.shape).all()
    assert np.linalg.norm(volume.index_to_mm(index) - lps_mm, axis=1).max() < 0.05
    assert np.abs(volume.voxels_hu[tuple(index.T)] - hu).max() < 1e-3


def _stored(random, dtype: str, count: int) -> np.ndarray:
    """Values that are all different; fractions where the type has them."""
    values = random.permutation(count)
    if dtype[0] == "i":
        values = values - count // 2
    return values.astype(dtype) + (np.dtype(dtype).type(0.25) if dtype[0] == "f" else np.dtype(dtype).type(0))


def _rotation(b: float, c: float, d: float) -> np.ndarray:
    """The rotation of a unit quaternion whose real part is not negative (nifti1.h, method 2)."""
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
            [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
            [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - b * b - c * c],
        ]
    )


def _turn(random) -> np.ndarray:
    """An oblique rotation, or one that exchanges and flips axes."""
    if random.random() < 0.5:
        turned = np.zeros((3, 3))
        turned[range(3), random.permutation(3)] = random.choice([-1, 1], 3)
        return turned
    return np.linalg.qr(random.normal(size=(3, 3)))[0]


class _Nifti:
    """A NIfTI header as numbers; written by struct alone."""

    def __init__(self, sizes=(6, 5, 4), **fields):
        self.sizes, self.version, self.order = sizes, 1, "<"
        self.pixdim, self.quaternion, self.shift = (1.0, 0.5, 0.75, 2.0), (0.0, 0.0, 0.0), (-12.5, 3.25, -40.0)
        self.srow = np.array([[-0.5, 0, 0, 12.5], [0, 0.75, 0, -3.25], [0, 0, 2.0, -40.0]])
        self.qform = self.sform = 0
        self.slope = self.intercept = 0.0
        self.units, self.kind, self.extension, self.gap = 2, "i2", b"", 0
        self.__dict__.update(fields)

    @property
    def floats(self) -> str:
        return "f" if self.version == 1 else "d"

    def rounded(self, values) -> np.ndarray:
        """As the header holds them."""
        return np.array(values, np.float32 if self.version == 1 else np.float64).astype(np.float64)

    def header(self, *, is_pair=False) -> bytes:
        def at(place, form, *values):
            struct.pack_into(self.order + form, head, place, *values)

        f, dims = self.floats, (len(self.sizes), *self.sizes, *[1] * (7 - len(self.sizes)))
        pixdim, lines = (*self.pixdim, 1, 1, 1, 1), np.asarray(self.srow).ravel()
        size = 348 if self.version == 1 else 540
        flag = struct.pack("4B", bool(self.extension), 0, 0, 0)
        start = self.gap if is_pair else size + 4 + len(self.extension) + self.gap
        head = bytearray(size)
        code, bits = NIFTI_TYPES[self.kind], 8 * np.dtype(self.kind).itemsize
        if self.version == 1:
            at(0, "i", 348)
            at(40, "8h", *dims)
            at(70, "2h", code, bits)
            at(76, "8f", *pixdim)
            at(108, "3f", start, self.slope, self.intercept)
            head[123] = self.units
            at(252, "2h", self.qform, self.sform)
            at(256, f"6{f}", *self.quaternion, *self.shift)
            at(280, f"12{f}", *lines)
            head[344:348] = b"ni1\0" if is_pair else b"n+1\0"
        else:
            at(0, "i", 540)
            head[4:12] = (b"ni2\0" if is_pair else b"n+2\0") + b"\r\n\x1a\n"
            at(12, "2h", code, bits)
            at(16, "8q", *dims)
            at(104, "8d", *pixdim)
            at(168, "q2d", start, self.slope, self.intercept)
            at(344, "2i", self.qform, self.sform)
            at(352, f"6{f}", *self.quaternion, *self.shift)
            at(400, f"12{f}", *lines)
            at(500, "i", self.units)
        return bytes(head) + flag + self.extension

    def write(self, path: Path, stored: np.ndarray) -> Path:
        """To ``x.nii``, ``x.hdr`` with its ``x.img``, and the same with ``.gz``."""
        voxels = bytes(self.gap) + stored.astype(stored.dtype.newbyteorder(self.order)).tobytes()
        pack = gzip.compress if path.suffix == ".gz" else bytes
        if ".hdr" in path.name:
            path.with_name(path.name.replace(".hdr", ".img")).write_bytes(pack(voxels))
            path.write_bytes(pack(self.header(is_pair=True)))
        else:
            path.write_bytes(pack(self.header() + voxels))
        return path

    def affine(self, name: str) -> np.ndarray:
        """Index (i, j, k) to RAS mm of either form, 3 x 4, in double precision."""
        unit = {1: 1000.0, 3: 0.001}.get(self.units % 8, 1.0)
        if name == "sform":
            return self.rounded(self.srow) * unit
        pixdim = self.rounded(self.pixdim)
        steps = _rotation(*self.rounded(self.quaternion)) * pixdim[1:4] * [1, 1, -1 if pixdim[0] < 0 else 1]
        return np.column_stack([steps, self.rounded(self.shift)]) * unit

    def lps_mm(self, name: str) -> np.ndarray:
        return np.column_stack([_indices(self.sizes[:3]), np.ones(np.prod(self.sizes))]) @ self.affine(name).T * RAS


def _random_nifti(seed: int) -> tuple[_Nifti, np.ndarray, np.ndarray, str]:
    random = np.random.default_rng(seed)
    sizes = tuple(random.integers(2, 7, 3).tolist())
    qform, sform = [pair for pair in itertools.product(range(5), repeat=2) if any(pair)][seed % 24]
    units = int(random.choice([0, 1, 2, 3]))
    mm = {1: 1000.0, 3: 0.001}.get(units, 1.0)
    turned = _turn(random)
    spacing = random.uniform(0.4, 4, 3)
    quaternion = random.normal(size=4)
    if np.array_equal(np.abs(turned), np.abs(turned).round()):
        quaternion = np.eye(4)[random.integers(4)]
    quaternion = (quaternion / np.linalg.norm(quaternion) * (1 if quaternion[0] >= 0 else -1))[1:]
    shift = random.uniform(-300, 300, 3)
    shear = np.eye(3)
    if random.random() < 0.5:
        shear[tuple(random.permutation(3)[:2])] = random.uniform(-0.4, 0.4)
    nearby = random.random() < 0.3  # the two forms then say the same, as most writers have it
    steps = turned @ shear * random.uniform(0.4, 4, 3)
    qfac = float(random.choice([-1, 0, 1]))
    if nearby:
        steps, shear = _rotation(*quaternion) * spacing * [1, 1, -1 if qfac < 0 else 1], np.eye(3)
    lines = np.column_stack([steps, shift + (0 if nearby else random.uniform(-40, 40, 3))])
    kind = sorted(NIFTI_TYPES)[seed % 9]
    made = _Nifti(
        sizes,
        version=int(random.choice([1, 2])),
        order=str(random.choice(["<", ">"])),
        pixdim=(qfac, *spacing / mm),
        quaternion=tuple(quaternion),
        shift=tuple(shift / mm),
        srow=lines / mm,
        qform=qform,
        sform=sform,
        units=units + int(random.choice([0, 8, 16])),
        kind=kind,
        extension=b"" if random.random() < 0.5 else struct.pack("2i", 32, 4) + b"a comment".ljust(24),
        gap=int(random.choice([0, 0, 16])),
        slope=float(random.choice([0, np.nan, 1, 2, 0.5, -1, 0.1])),
        intercept=float(random.choice([0, -100, 7.5])),
    )
    stored = _stored(random, kind, int(np.prod(sizes)))
    hu = stored.astype(np.float64)
    if made.slope and np.isfinite(made.slope):
        hu = hu * made.rounded(made.slope) + made.rounded(made.intercept)
    suffix = [".nii", ".nii.gz", ".hdr", ".hdr.gz"][seed // 3 % 4]
    return made, stored, hu, suffix


@pytest.mark.parametrize("seed", range(72))
def test_every_voxel_of_a_nifti_file_lies_where_its_header_puts_it(tmp_path, seed):
    made, stored, hu, suffix = _random_nifti(seed)
    volume = read(made.write(tmp_path / f"scan{suffix}", stored))
    _assert_voxels(volume, made.lps_mm("sform" if made.sform else "qform"), hu)
    said = [f.message for f in volume.findings if f.code == "geometry-unclear"]
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in made.sizes))])
    apart = np.linalg.norm(corners @ (made.affine("sform") - made.affine("qform")).T, axis=1).max()
    differ = made.sform and made.qform and apart > np.linalg.norm(made.affine("sform")[:, :3], axis=0).min() / 2
    assert len(said) == bool(differ)
    if differ:
        assert f"sform (code {made.sform}) and qform (code {made.qform})" in said[0]
        assert f"{apart:.3g} mm apart; the sform is taken" in said[0]


def test_the_random_headers_hold_all_that_is_to_be_tried():
    made = [_random_nifti(seed)[0] for seed in range(72)]
    assert {(m.qform, m.sform) for m in made} == {p for p in itertools.product(range(5), repeat=2) if any(p)}
    assert {m.kind for m in made} == set(NIFTI_TYPES)
    assert {(m.version, m.order) for m in made} == {(1, "<"), (1, ">"), (2, "<"), (2, ">")}
    assert {m.units % 8 for m in made} == {0, 1, 2, 3}
    taken = [m.affine("sform" if m.sform else "qform")[:, :3] for m in made]
    assert {bool(np.linalg.det(steps) < 0) for steps in taken} == {True, False}
    lengths = [steps / np.linalg.norm(steps, axis=0) for steps in taken]
    assert sum(np.abs(steps.T @ steps - np.eye(3)).max() > 0.05 for steps in lengths) > 10


def _hu(sizes=(6, 5, 4)) -> np.ndarray:
    return np.arange(np.prod(sizes), dtype="i2")


def _codes(volume: Volume) -> list[str]:
    return [f.code for f in volume.findings if f.code not in ("few-slices", "anisotropic")]


def test_a_nifti_header_without_a_place_is_refused_and_a_lenient_policy_takes_pixdim(tmp_path):
    path = _Nifti(sform=0, qform=0).write(tmp_path / "x.nii", _hu())
    for policy in ("standard", "strict"):
        with pytest.raises(
            GeometryError, match=r"x\.nii: .*geometry-missing \(refused\): .*does not say where the scan"
        ):
            read(path, reading=ReadingConfig(policy=policy))
    volume = read(path, reading=LENIENT)
    assert volume.spacing_mm == (2.0, 0.75, 0.5)
    assert [f.severity for f in volume.findings if f.code == "geometry-missing"] == ["note"]
    (found,), _ = examine(path)
    assert found.verdict == "refused"


@pytest.mark.parametrize("pixdim", [0.0, float("nan")])
def test_a_qform_without_spacing_is_refused_and_a_sform_needs_none(tmp_path, pixdim):
    lacks = (1.0, 0.5, pixdim, 2.0)
    path = _Nifti(qform=1, pixdim=lacks).write(tmp_path / "x.nii", _hu())
    with pytest.raises(GeometryError, match="does not give the spacing along y: 1 mm would be a guess"):
        read(path)
    assert read(path, reading=LENIENT).spacing_mm == (2.0, 1.0, 0.5)
    made = _Nifti(qform=0, sform=2, pixdim=lacks)
    volume = read(made.write(tmp_path / "y.nii", _hu()))
    _assert_voxels(volume, made.lps_mm("sform"), _hu())
    assert _codes(volume) == []


def test_a_negative_pixdim_beside_a_valid_sform_is_readable_and_no_qform_follows_from_it(tmp_path):
    made = _Nifti(sform=1, pixdim=(1.0, -0.5, 0.75, 2.0))
    volume = read(made.write(tmp_path / "x.nii", _hu()))
    _assert_voxels(volume, made.lps_mm("sform"), _hu())
    assert _codes(volume) == []
    made.qform = 1
    volume = read(made.write(tmp_path / "y.nii", _hu()))
    _assert_voxels(volume, made.lps_mm("sform"), _hu())
    assert "only the sform makes a grid" in next(f.message for f in volume.findings if f.code == "geometry-unclear")
    with pytest.raises(
        GeometryError, match=r"z\.nii: the spacing must be positive and finite, is -0\.5 x 0\.75 x 2 mm"
    ):
        read(_Nifti(qform=1, pixdim=made.pixdim).write(tmp_path / "z.nii", _hu()))


def test_a_sform_with_another_code_than_1_is_taken_and_the_qform_named(tmp_path):
    """ITK takes the qform wherever sform_code is not 1: this scan would lie 30 mm off."""
    made = _Nifti(qform=1, sform=2, quaternion=(0, 1, 0), shift=(12.5, -3.25, -4.0), pixdim=(-1, 0.5, 0.75, 2.0))
    made.srow[2, 3] = -34.0
    volume = read(made.write(tmp_path / "x.nii", _hu()))
    _assert_voxels(volume, made.lps_mm("sform"), _hu())
    (said,) = [f for f in volume.findings if f.code == "geometry-unclear"]
    assert said.severity == "note"
    assert "30 mm apart" in said.message
    with pytest.raises(GeometryError, match="geometry-unclear"):
        read(tmp_path / "x.nii", reading=ReadingConfig(policy="strict", override=("few-slices=note",)))


def test_a_sheared_sform_is_a_tilted_gantry(tmp_path):
    made = _Nifti(sform=1)
    made.srow[1, 2] = 0.5
    volume = read(made.write(tmp_path / "x.nii", _hu()))
    _assert_voxels(volume, made.lps_mm("sform"), _hu())
    assert _codes(volume) == ["gantry-tilt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0])
def test_a_form_that_makes_no_grid_is_an_error_in_one_line(tmp_path, value):
    broken = _Nifti(sform=1)
    broken.srow[0, 0] = value if value != 2.0 else 0.0
    with pytest.raises(GeometryError, match=r"x\.nii: voxels must measure"):
        read(broken.write(tmp_path / "x.nii", _hu()))
    with pytest.raises(GeometryError, match=r"y\.nii: (the qform must hold a rotation|voxels must measure)"):
        read(_Nifti(qform=1, quaternion=(value, 0, 0)).write(tmp_path / "y.nii", _hu()))


def test_an_analyze_header_is_refused_as_it_does_not_say_how_the_scan_lies(tmp_path):
    path = _Nifti(qform=1).write(tmp_path / "x.hdr", _hu())
    content = path.read_bytes()
    path.write_bytes(content[:344] + bytes(4))
    with pytest.raises(
        GeometryError, match=r"x\.hdr: must be a NIfTI header, is one of ANALYZE 7\.5, which does not say"
    ):
        read(path)
    path.write_bytes(b"ENVI\nsamples = 4\n" * 40)
    with pytest.raises(ReadError, match=r"x\.hdr: cannot be read: it does not begin as a NIfTI file does"):
        read(path)


def test_both_files_of_a_pair_count_and_one_is_not_enough(tmp_path):
    made = _Nifti(qform=1)
    path = made.write(tmp_path / "x.hdr", _hu())
    voxels = tmp_path / "x.img"
    assert detached_files(path) == [voxels]
    assert [one.where for one in examine(tmp_path)[0]] == ["x.hdr"]
    with pytest.raises(ReadError, match=r"NIfTI \(\.nii, \.nii\.gz, \.hdr of a pair\)"):
        read(voxels)
    (tmp_path / "x.img.gz").write_bytes(gzip.compress(voxels.read_bytes()[:-4]))
    assert read(path).voxels_hu.size == 120  # the plain one is the header's own
    voxels.unlink()
    with pytest.raises(ReadError, match=r"x\.hdr: cannot be read: it lacks 4 of the 240 bytes"):
        read(path)
    (tmp_path / "x.img.gz").unlink()
    with pytest.raises(ReadError, match=r"its voxels are missing, they must lie beside it as x\.img"):
        read(path)


def test_what_a_nifti_header_promises_is_checked_before_memory_is_taken(tmp_path):
    path = _Nifti((60000, 60000, 60000), version=2, qform=1).write(tmp_path / "x.nii", _hu())
    with pytest.raises(ReadError, match=r"x\.nii: must have at most 8 GB of voxels, has 4\.32e\+05 GB"):
        read(path)
    path = _Nifti((1 << 40, 5, 4), version=2, qform=1).write(tmp_path / "x.nii", _hu())
    with pytest.raises(ReadError, match="each axis must have 1 to 65536 voxels"):
        read(path)
    path = _Nifti((2000, 1000, 1000), version=2, qform=1).write(tmp_path / "x.hdr.gz", _hu())
    with pytest.raises(ReadError, match=r"x\.hdr\.gz: cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("code", "message"),
    [(1536, "its data type float128 is not supported"), (9999, "data type 9999 is not"), (2048, "has complex256")],
)
def test_a_nifti_type_that_is_not_supported_is_named(tmp_path, code, message):
    content = bytearray(_Nifti(qform=1).write(tmp_path / "x.nii", _hu()).read_bytes())
    struct.pack_into("<h", content, 70, code)
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(ReadError, match=message):
        read(tmp_path / "x.nii")


def test_one_volume_over_time_is_a_volume_and_several_are_refused(tmp_path):
    made = _Nifti((6, 5, 4, 1), qform=1)
    _assert_voxels(read(made.write(tmp_path / "x.nii", _hu())), made.lps_mm("qform"), _hu())
    with pytest.raises(GeometryError, match="must be one volume, not several, is 6 x 5 x 4 x 2"):
        read(_Nifti((6, 5, 4, 2), qform=1).write(tmp_path / "x.nii", _hu((6, 5, 4, 2))))


# masks


@pytest.fixture(scope="module")
def chest():
    return simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0]


def _mask_of(chest: Volume, **fields) -> tuple[_Nifti, np.ndarray]:
    """A mask of all that is darker than tissue inside the middle of the scan, on its grid."""
    mask = np.zeros(chest.shape, "u1")
    inside = tuple(slice(n // 4, -n // 4) for n in chest.shape)
    mask[inside] = chest.voxels_hu[inside] < -500
    lines = (np.diag([*RAS, 1]) @ chest.affine)[:3, [2, 1, 0, 3]]
    made = _Nifti(chest.shape[::-1], kind="u1", srow=lines, **fields)
    made.pixdim = (1.0, *chest.spacing_mm[::-1])
    return made, mask.ravel()


def test_a_mask_is_placed_by_its_sform_too(tmp_path, chest):
    made, mask = _mask_of(chest, sform=2, qform=1, shift=(500.0, 0.0, 0.0))
    lungs = read_lungs(made.write(tmp_path / "mask.nii.gz", mask), chest)
    assert lungs.mask.sum() == mask.sum()


def test_a_mask_whose_header_does_not_say_where_it_lies_is_not_placed(tmp_path, chest):
    made, mask = _mask_of(chest)
    with pytest.raises(PrepareError, match=r"mask\.nii.*geometry-missing \(refused\).*does not say where"):
        read_lungs(made.write(tmp_path / "mask.nii", mask), chest)
    x, y, z = chest.shape[::-1]
    head = f"NDims = 3\nDimSize = {x} {y} {z}\nElementType = MET_UCHAR\nElementSpacing = 6 6 6\n"
    (tmp_path / "mask.mha").write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + mask.tobytes())
    with pytest.raises(PrepareError, match=r"mask\.mha.*position-missing \(refused\).*no origin"):
        read_lungs(tmp_path / "mask.mha", chest)


# NRRD and MetaImage

TEXT_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001, "": 1.0}
SPACES = {
    "LPS": LPS, "left-posterior-superior": LPS, "RAS": RAS, "right-anterior-superior": RAS, "LAS": LAS,
    "left-anterior-superior": LAS,
}  # fmt: skip
NRRD_NAMES = {
    "u1": "uchar", "i1": "int8", "i2": "short", "u2": "unsigned short", "i4": "int32_t", "u4": "uint", "i8": "longlong",
    "f4": "float", "f8": "double",
}  # fmt: skip
META_NAMES = {
    "u1": "MET_UCHAR", "i1": "MET_CHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT",
    "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip


def _as_itk_places_it(path: Path, sizes) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    origin, steps = np.array(image.GetOrigin()), np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return _indices(sizes) @ steps.T + origin


def _vector(values) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"


@pytest.mark.parametrize("seed", range(60))
def test_every_voxel_of_a_nrrd_file_lies_where_its_header_puts_it(tmp_path, seed):
    random = np.random.default_rng(1000 + seed)
    sizes = random.integers(2, 7, 3).tolist()
    space = sorted(SPACES)[seed % 6]
    unit = sorted(TEXT_UNITS)[seed // 6 % 6]
    kind, order = sorted(NRRD_NAMES)[seed % 9], str(random.choice(["<", ">"]))
    encoding = ["raw", "gzip", "ascii", "raw", "gz", "hex"][seed // 2 % 6]
    mm = np.full(3, TEXT_UNITS[unit])
    steps = _turn(random) * random.uniform(0.4, 4, 3)
    if random.random() < 0.3:
        steps[:, 2] += 0.3 * steps[:, 1]
    origin = random.uniform(-300, 300, 3)
    directions = [_vector(step / mm) for step in steps.T]
    kinds, file_sizes = ["domain"] * 3, [*map(str, sizes)]
    extra = encoding not in ("ascii", "hex") and random.random() < 0.3
    if extra:  # one value in a list, as some writers have it
        place = int(random.choice([0, 3]))
        directions.insert(place, "none")
        kinds.insert(place, "list")
        file_sizes.insert(place, "1")
    stored = _stored(random, kind, int(np.prod(sizes)))
    words = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    packed = {
        "raw": lambda: words,
        "gzip": lambda: gzip.compress(words),
        "gz": lambda: gzip.compress(words),
        "ascii": lambda: " ".join(map(str, stored.tolist())).encode(),
        "hex": lambda: words.hex().encode(),
    }[encoding]()
    lines = [
        "NRRD0005",
        "# written by a test",
        f"type: {NRRD_NAMES[kind]}",
        f"dimension: {len(file_sizes)}",
        f"space: {space.upper() if random.random() < 0.2 else space}",
        f"sizes: {' '.join(file_sizes)}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        f"thicknesses: {' '.join(['9'] * len(kinds))}",
        f"endian: {'little' if order == '<' else 'big'}",
        f"encoding: {encoding}",
        *([f'space units: "{unit}" "{unit}" "{unit}"'] if unit else []),
        f"space origin: {_vector(origin / mm)}",
        "spacing:=9 9 9",
    ]
    is_detached = random.random() < 0.3
    path = tmp_path / ("scan.nhdr" if is_detached else "scan.nrrd")
    if is_detached:
        (tmp_path / "scan.bin").write_bytes(packed)
        path.write_text("\n".join([*lines, "data file: scan.bin"]) + "\n\n", encoding="utf-8")
    else:
        path.write_bytes("\n".join([*lines, "", ""]).encode() + packed)
    truth = (_indices(sizes) @ steps.T + origin) * SPACES[space]
    volume = read(path)
    _assert_voxels(volume, truth, stored.astype(np.float64))
    assert not {"geometry-missing", "position-missing", "geometry-unclear"} & set(_codes(volume))
    if TEXT_UNITS[unit] == 1 and not extra:
        assert np.abs(_as_itk_places_it(path, sizes) - truth).max() < 1e-6


@pytest.mark.parametrize("seed", range(60))
def test_every_voxel_of_a_metaimage_lies_where_its_header_puts_it(tmp_path, seed):
    random = np.random.default_rng(2000 + seed)
    sizes = random.integers(2, 7, 3).tolist()
    unit = ["mm", "cm", "m", "um", "?", None][seed % 6]
    mm = {"cm": 10.0, "m": 1000.0, "um": 0.001}.get(unit, 1.0)
    kind, order = sorted(META_NAMES)[seed % 8], str(random.choice(["<", ">"]))
    directions, spacing = _turn(random), random.uniform(0.4, 4, 3)
    origin = random.uniform(-300, 300, 3)
    packing = ["raw", "zlib", "text"][seed // 2 % 3]
    is_4d = packing != "text" and random.random() < 0.3
    matrix, shift, steps, dims = directions.T, origin, spacing, [*sizes]  # each row leads along one axis of the file
    if is_4d:
        matrix = np.block([[matrix, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])
        shift, steps, dims = np.append(origin, 0), np.append(spacing, 1), [*sizes, 1]
    stored = _stored(random, kind, int(np.prod(sizes)))
    words = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    packed = zlib.compress(words) if packing == "zlib" else words
    if packing == "text":
        packed = (" ".join(map(str, stored.tolist())) + "\n").encode()

    def numbers(values) -> str:
        return " ".join(repr(float(v)) for v in np.ravel(values))

    matrix_name = str(random.choice(["TransformMatrix", "Rotation", "Orientation"]))
    origin_name = str(random.choice(["Offset", "Position", "Origin"]))
    is_detached = random.random() < 0.3
    lines = [
        "ObjectType = Image",
        f"NDims = {len(dims)}",
        f"BinaryData = {packing != 'text'}",
        f"BinaryDataByteOrderMSB = {order == '>' and packing != 'text'}",
        f"CompressedData = {packing == 'zlib'}",
        *([f"CompressedDataSize = {len(packed)}"] if packing == "zlib" else []),
        f"{matrix_name} = {numbers(matrix)}",
        f"{origin_name} = {numbers(shift / mm)}",
        f"CenterOfRotation = {numbers(0 * shift)}",
        "AnatomicalOrientation = RAI",
        *([f"DistanceUnits = {unit}"] if unit else []),
        f"ElementSize = {numbers(0 * steps + 9)}",
        f"ElementSpacing = {numbers(steps / mm)}",
        f"DimSize = {' '.join(map(str, dims))}",
        f"ElementType = {META_NAMES[kind]}",
        f"ElementDataFile = {'scan.bin' if is_detached else 'LOCAL'}",
    ]
    path = tmp_path / ("scan.mhd" if is_detached else "scan.mha")
    path.write_bytes(("\n".join(lines) + "\n").encode() + (b"" if is_detached else packed))
    if is_detached:
        (tmp_path / "scan.bin").write_bytes(packed)
    truth = (_indices(sizes) * spacing) @ directions.T + origin
    volume = read(path)
    _assert_voxels(volume, truth, stored.astype(np.float64))
    assert not {"geometry-missing", "position-missing", "geometry-unclear"} & set(_codes(volume))
    if mm == 1 and not is_4d and matrix_name == "TransformMatrix" and origin_name == "Offset":
        assert np.abs(_as_itk_places_it(path, sizes) - truth).max() < 1e-6


NRRD = """NRRD0004
type: short
dimension: 3
sizes: 6 5 4
encoding: raw
endian: little
"""
ITK_REFUSES = "its header is damaged, incomplete or contradicts itself"
PLACED = """space: LPS
space directions: (0.5,0,0) (0,0.75,0) (0,0,2)
space origin: (1,2,3)
"""
META = """ObjectType = Image
NDims = 3
DimSize = 6 5 4
ElementType = MET_SHORT
ElementByteOrderMSB = False
ElementSpacing = 0.5 0.75 2
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1 2 3
"""


def _nrrd(folder: Path, text: str, head: str = NRRD) -> Path:
    (folder / "x.nrrd").write_bytes((head + text + "\n").encode() + _hu().tobytes())
    return folder / "x.nrrd"


def _meta(folder: Path, was: str = "", becomes: str = "") -> Path:
    assert was in META
    text = META.replace(was, becomes) if was else META + becomes
    (folder / "x.mha").write_bytes((text + "ElementDataFile = LOCAL\n").encode() + _hu().tobytes())
    return folder / "x.mha"


def test_text_with_a_byte_order_is_refused_as_itk_would_swap_the_numbers(tmp_path):
    head = META.replace("ElementByteOrderMSB = False", "BinaryData = False\nElementByteOrderMSB = True")
    path = tmp_path / "x.mha"
    path.write_text(head + "ElementDataFile = LOCAL\n" + " ".join(map(str, _hu().tolist())) + "\n")
    with pytest.raises(ReadError, match=r"x\.mha: cannot be read: text has no byte order"):
        read(path)
    path.write_text(path.read_text().replace("MSB = True", "MSB = False"))
    assert np.array_equal(np.sort(read(path).voxels_hu, None), _hu())


def test_what_is_well_formed_has_no_finding_on_its_place(tmp_path):
    for path in (_nrrd(tmp_path, PLACED), _meta(tmp_path)):
        volume = read(path)
        assert _codes(volume) == []
        assert volume.index_to_mm((0, 0, 0)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "along", "spacing"),
    [
        ("", "x and y and z", (1.0, 1.0, 1.0)),
        ("spacings: 0.5 nan 2\n", "y", (2.0, 1.0, 0.5)),
        ("thicknesses: 0.5 0.75 2\n", "x and y and z", (1.0, 1.0, 1.0)),
        (PLACED.replace("(0,0,2)", "(nan,nan,nan)"), "z", (1.0, 0.75, 0.5)),
    ],
)
def test_a_nrrd_header_without_spacing_is_refused_and_lenient_takes_1_mm(tmp_path, text, along, spacing):
    path = _nrrd(tmp_path, text)
    with pytest.raises(GeometryError, match=rf"geometry-missing \(refused\): .*spacing along {along}: 1 mm"):
        read(path)
    volume = read(path, reading=LENIENT)
    assert volume.spacing_mm == spacing
    assert [f.severity for f in volume.findings if f.code == "geometry-missing"] == ["note"]


@pytest.mark.parametrize(
    ("was", "becomes", "along"),
    [
        ("ElementSpacing = 0.5 0.75 2\n", "", "x and y and z"),
        ("ElementSpacing = 0.5 0.75 2\n", "ElementSize = 0.5 0.75 2\n", "x and y and z"),
    ],
)
def test_a_metaimage_without_spacing_is_refused_and_lenient_takes_1_mm(tmp_path, was, becomes, along):
    path = _meta(tmp_path, was, becomes)
    with pytest.raises(GeometryError, match=rf"geometry-missing \(refused\): .*spacing along {along}: 1 mm"):
        read(path)
    assert 1.0 in read(path, reading=LENIENT).spacing_mm


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spacings: 0.5 0.75 2\n", ["no directions", "no origin"]),
        (PLACED.replace("space: LPS", "space dimension: 3"), ["does not name the patient's axes"]),
        (PLACED.replace("space: LPS", "space: scanner-xyz"), ["does not name the patient's axes"]),
        (PLACED.replace("space origin: (1,2,3)\n", ""), ["no origin"]),
        (PLACED.replace("(1,2,3)", "(nan,nan,nan)"), ["no origin"]),
    ],
)
def test_what_a_nrrd_header_leaves_unsaid_is_a_finding_on_what_cannot_be_trusted(tmp_path, text, said):
    _assert_unplaced(_nrrd(tmp_path, text), said)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", "", ["no directions"]),
        ("Offset = 1 2 3\n", "", ["no origin"]),
        ("Offset = 1 2 3", "Offset = 1 nan 3", ["no origin"]),
        (
            "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n",
            "AnatomicalOrientation = RAI\n",
            ["no dir", "no orig"],
        ),
    ],
)
def test_what_a_metaimage_leaves_unsaid_is_a_finding_on_what_cannot_be_trusted(tmp_path, was, becomes, said):
    _assert_unplaced(_meta(tmp_path, was, becomes), said)


def _assert_unplaced(path: Path, said: list[str]) -> None:
    volume = read(path)
    assert volume.spacing_mm == (2.0, 0.75, 0.5)
    found = [f for f in volume.findings if f.code == "position-missing"]
    assert [f.severity for f in found] == ["note"] * len(said)
    for finding, words in zip(found, said, strict=True):
        assert words in finding.message
        assert "points in mm" in finding.message
        assert ("left and right" in finding.message) == (words[:9] != "no origin"[: len(words[:9])])
    with pytest.raises(GeometryError, match=r"position-missing \(refused\)"):
        read(path, reading=ReadingConfig(policy="strict", override=("few-slices=note",)))


def test_a_centre_of_rotation_that_could_move_the_scan_is_noted(tmp_path):
    assert _codes(read(_meta(tmp_path, "", "CenterOfRotation = 1 2 3\n"))) == []
    path = _meta(tmp_path, "1 0 0 0 1 0 0 0 1\n", "-1 0 0 0 -1 0 0 0 1\nCenterOfRotation = 1 2 3\n")
    assert _codes(read(path)) == ["geometry-unclear"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLACED + 'space units: "inch" "mm" "mm"\n', "must be measured in mm, cm, m or um, says another unit"),
        ('spacings: 1 1 1\nunits: "mm" "px" "mm"\n', "must be measured in mm"),
        (PLACED + "spacings: 0.5 0.75 2\n", ITK_REFUSES),
        (PLACED + "axis mins: 0 0 0\n", ITK_REFUSES),
        (PLACED + 'units: "mm" "mm" "mm"\n', ITK_REFUSES),
        (PLACED + "space dimension: 3\n", ITK_REFUSES),
        (PLACED + "space: LPS\n", "says one thing twice"),
        (PLACED.replace("space: LPS\n", ""), ITK_REFUSES),
        (PLACED.replace("LPS", "RPI"), ITK_REFUSES),
        (PLACED.replace("(0,0.75,0) ", ""), ITK_REFUSES),
        (PLACED.replace("(0,0,2)", "(0,2)"), ITK_REFUSES),
        (PLACED.replace("(1,2,3)", "(1,2)"), ITK_REFUSES),
        (PLACED.replace("(1,2,3)", "(1,two,3)"), ITK_REFUSES),
        (PLACED.replace("(0,0,2)", "none"), "one real value in each voxel, has 4"),
        (PLACED + "kinds: domain domain\n", ITK_REFUSES),
        ("spacings: 1 1\n", ITK_REFUSES),
        ("spacings: 1 -1 1\n", "the spacing must be positive"),
        ("spacings: 0.5 0.75 0\n", ITK_REFUSES),
        ("space: LPS\nspacings: 0.5 0.75 2\nspace origin: (1,2,3)\n", ITK_REFUSES),
        (PLACED.replace("(0,0.75,0)", "(0,0,0)"), "the spacing must be positive and finite, is 0.5 x 0 x 2 mm"),
        (PLACED.replace("(0,0,2)", "(0,0,nan)"), ITK_REFUSES),
    ],
)
def test_a_nrrd_header_that_contradicts_itself_or_measures_otherwise_is_refused(tmp_path, text, message):
    with pytest.raises(ReadError, match=message):
        read(_nrrd(tmp_path, text), reading=LENIENT)


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("", "DistanceUnits = inch\n", "must be measured in mm, cm, m or um, says another unit"),
        ("", "Position = 4 5 6\n", "contradicts itself in Offset and Position"),
        ("", "Orientation = 0 1 0 1 0 0 0 0 1\n", "contradicts itself in TransformMatrix and Orientation"),
        ("", "Offset = 1 2 3\n", "says one thing twice"),
        ("Offset = 1 2 3", "Offset = 1 2", ITK_REFUSES),
        ("0.5 0.75 2", "0.5 0.75", "must have 3 values as ElementSpacing, has 2"),
        ("0.5 0.75 2", "0.5 -0.75 2", "the spacing must be positive"),
        ("0.5 0.75 2", "0.5 0 2", "the spacing must be positive and finite, is 0.5 x 0 x 2 mm"),
        ("0.5 0.75 2", "nan 0.75 2", "the spacing must be positive and finite, is nan x 0.75 x 2 mm"),
        ("0.5 0.75 2", "0.5 wide 2", "must have numbers as ElementSpacing"),
        ("1 0 0 0 1 0 0 0 1", "1 0 0 0 nan 0 0 0 1", "must have a TransformMatrix of unit vectors"),
        ("1 0 0 0 1 0 0 0 1", "2 0 0 0 1 0 0 0 1", "must have a TransformMatrix of unit vectors"),
    ],
)
def test_a_metaimage_that_contradicts_itself_or_measures_otherwise_is_refused(tmp_path, was, becomes, message):
    with pytest.raises(ReadError, match=message):
        read(_meta(tmp_path, was, becomes), reading=LENIENT)


@pytest.mark.parametrize("name", ["bzip2", "bz2", "zrl"])
def test_a_nrrd_encoding_that_is_not_supported_is_named(tmp_path, name):
    with pytest.raises(ReadError, match=rf"x\.nrrd: cannot be read: its encoding {name} is not supported$"):
        read(_nrrd(tmp_path, PLACED, NRRD.replace("raw", name)))


def test_a_type_or_a_compression_that_is_not_supported_is_named(tmp_path):
    with pytest.raises(ReadError, match=r"x\.nrrd: cannot be read: its type block is not supported$"):
        read(_nrrd(tmp_path, PLACED, NRRD.replace("short", "block")))
    with pytest.raises(ReadError, match=r"x\.mha: cannot be read: its ElementType MET_FLOAT_MATRIX is not supported$"):
        read(_meta(tmp_path, "MET_SHORT", "MET_FLOAT_MATRIX"))
    with pytest.raises(ReadError, match=r"x\.mha: cannot be read: its CompressedData must be True or False$"):
        read(_meta(tmp_path, "", "CompressedData = bzip2\n"))
    with pytest.raises(ReadError, match="one real value in each voxel, has 3"):
        read(_meta(tmp_path, "", "ElementNumberOfChannels = 3\n"))
