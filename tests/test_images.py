"""NIfTI, NRRD and MetaImage: the values that ITK gives, and no more trust in a header than its file deserves."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hilum.errors import GeometryError, ReadError
from hilum.reading.decoder_pool import decode
from hilum.reading.images.reader import detached_files, read_image
from hilum.reading.rescale import limited
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume, reorient

FORMATS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
LIMIT = 10**9


def _hu(shape=(4, 5, 6), dtype="i2") -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)


def _nifti(voxels: np.ndarray, *, order="<", slope=0.0, intercept=0.0, spacing=(0.5, 0.75, 2.0)) -> bytes:
    """A NIfTI file, made by hand: ITK writes but one byte order, and no slope."""
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, 3, *voxels.shape[::-1], 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", head, 70, TYPES[voxels.dtype.str[1:]], voxels.dtype.itemsize * 8)
    struct.pack_into(f"{order}8f", head, 76, 1.0, *spacing, 1, 1, 1, 1)
    struct.pack_into(f"{order}3f", head, 108, 352, slope, intercept)
    head[123] = 2  # mm
    struct.pack_into(f"{order}2h6f", head, 252, 1, 0, 0, 0, 0, -12.5, 3.25, -40.0)
    head[344:348] = b"n+1\0"
    return bytes(head) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


def _write(path, voxels, *, compressed=False, **changes):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(changes.get("spacing", (0.5, 0.75, 2.0)))
    image.SetOrigin((-12.5, 3.25, -40.0))
    image.SetDirection(changes.get("direction", (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    sitk.WriteImage(image, str(path), compressed)
    return path


def _as_itk_reads_it(path) -> Volume:
    """The old way, in this process."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    voxels, _, _ = limited(sitk.GetArrayFromImage(image))  # random values below the range are noise, no constant
    if voxels.dtype != np.int8:
        voxels = np.where(np.rint(voxels) <= np.iinfo(np.int16).min, -1000, np.maximum(voxels, -1024)).astype(
            voxels.dtype
        )
    whole = voxels.dtype.kind in "iu" or bool(np.all(voxels == np.rint(voxels)))
    return reorient(Volume(voxels_hu=voxels.astype(np.int16 if whole else np.float32), affine=affine))


def _assert_same(one: Volume, other: Volume) -> None:
    assert one.voxels_hu.dtype == other.voxels_hu.dtype
    assert np.array_equal(one.voxels_hu, other.voxels_hu)
    assert one.affine.tobytes() == other.affine.tobytes()


def _values(dtype: str, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(0, 2000, (3, 4, 5)).astype(dtype)
    low, high = (max(np.iinfo(dtype).min, -5000), min(np.iinfo(dtype).max, 5000))
    voxels = random.integers(low, high, (3, 4, 5), endpoint=True).astype(dtype)
    voxels[0, 0, :2] = np.iinfo(dtype).min, min(np.iinfo(dtype).max, 2**63 - 1)
    return voxels


@settings(max_examples=80)
@given(
    st.sampled_from(sorted(TYPES)),
    st.sampled_from("<>"),
    st.sampled_from([0.0, 1.0, 2.0, 0.1, -1.0, 1e-20, float("nan"), float("inf"), 1 / 3]),
    st.sampled_from([0.0, -1024.0, 0.7, float("nan")]),
    st.sampled_from([".nii", ".nii.gz"]),
)
@example("i2", "<", 1.0, -1024.0, ".nii")
def test_a_nifti_file_has_the_values_that_itk_reads(tmp_path_factory, dtype, order, slope, intercept, suffix):
    path = tmp_path_factory.getbasetemp() / f"same{len(suffix)}{suffix}"  # see the test after next
    if not slope or not np.isfinite(slope) or abs(slope) < 1e-16:
        intercept = 0.0  # ITK takes one even without a slope
    content = _nifti(_values(dtype, 3), order=order, slope=slope, intercept=intercept)
    path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" else content)
    _assert_same(read_image(path), _as_itk_reads_it(path))


def test_an_intercept_without_a_slope_is_not_taken(tmp_path):
    """The standard's reading: a slope of 0 means that values are not scaled."""
    (tmp_path / "a.nii").write_bytes(_nifti(_hu(), slope=0.0, intercept=-1024.0))
    (tmp_path / "b.nii").write_bytes(_nifti(_hu()))
    assert np.array_equal(read_image(tmp_path / "a.nii").voxels_hu, read_image(tmp_path / "b.nii").voxels_hu)


def test_a_compressed_file_beside_its_uncompressed_name_is_read_from_itself(tmp_path):
    """ITK takes the voxels of x.nii.gz from x.nii."""
    (tmp_path / "x.nii").write_bytes(_nifti(_hu() + 500))
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(_nifti(_hu(), spacing=(1.5, 1.25, 3.0))))
    volume = read_image(tmp_path / "x.nii.gz")
    assert volume.voxels_hu.max() < 100
    assert volume.spacing_mm == (3.0, 1.25, 1.5)


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(set(TYPES) - {"i8", "u8"})),
    st.sampled_from(FORMATS),
    st.booleans(),
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
def test_every_format_type_and_orientation_is_read_as_itk_does(
    tmp_path_factory, dtype, suffix, compressed, order, signs
):
    path = tmp_path_factory.getbasetemp() / f"turned{len(suffix)}{suffix}"
    direction = np.zeros((3, 3))
    direction[range(3), order] = signs
    _write(path, _values(dtype, 4), compressed=compressed, direction=direction.ravel().tolist())
    _assert_same(read_image(path), _as_itk_reads_it(path))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_file_is_an_error_in_every_format(tmp_path, suffix, compressed):
    random = np.random.default_rng(0).integers(-900, 900, (8, 32, 32), np.int16)
    path = _write(tmp_path / f"scan{suffix}", random, compressed=compressed)
    longest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    whole = longest.read_bytes()
    for size in (len(whole) - 1, len(whole) - 50, len(whole) // 2):
        longest.write_bytes(whole[:size])
        with pytest.raises(ReadError, match=r"scan\S+: (cannot be read|is damaged): ") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
        if not compressed and suffix != ".nii.gz":
            assert caught.value.code == "truncated-file"


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_absurd_size_is_refused_by_the_header_alone(tmp_path, suffix):
    path = _write(tmp_path / f"scan{suffix}", _hu())
    content = path.read_bytes()
    if suffix.startswith(".nii"):
        content = gzip.decompress(content) if suffix == ".nii.gz" else content
        content = content[:42] + struct.pack("<3h", 32000, 32000, 32000) + content[48:]
        content = gzip.compress(content) if suffix == ".nii.gz" else content
    else:
        content = content.replace(b"6 5 4", b"60000 50000 40000")
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"scan\S+: must have at most 8 GB of voxels, has \S+ GB$") as caught:
        read_image(path)
    assert caught.value.code == "too-large"
    path.write_bytes(content.replace(b"60000 50000 40000", b"6 99999999999999999999 4"))
    if not suffix.startswith(".nii"):
        with pytest.raises(ReadError, match=r"cannot be read: each axis must have 1 to 65536 voxels"):
            read_image(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_file_too_small_for_its_voxels_is_refused_however_it_is_compressed(tmp_path, suffix):
    path = _write(tmp_path / f"scan{suffix}", _hu(), compressed=True)
    content = path.read_bytes().replace(b"6 5 4", b"1000 1000 1000")
    if suffix == ".nii.gz":
        content = gzip.decompress(content)
        content = gzip.compress(content[:42] + struct.pack("<3h", 1000, 1000, 1000) + content[48:])
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"it lacks|cannot be inflated"):
        read_image(path)


def test_a_limit_of_the_config_is_the_limit(tmp_path):
    path = _write(tmp_path / "scan.nrrd", _hu())
    with pytest.raises(ReadError, match=r"scan\.nrrd: must have at most 1e-07 GB of voxels, has 2.4e-07 GB"):
        read_image(path, ReadingConfig(max_gb=1e-7))
    assert read_image(path, ReadingConfig(max_gb=3e-7)).shape == (4, 5, 6)


def test_a_damaged_checksum_of_a_compressed_file_is_noticed(tmp_path):
    content = bytearray(gzip.compress(_nifti(_hu())))
    content[-6] ^= 1
    (tmp_path / "x.nii.gz").write_bytes(content)
    with pytest.raises(ReadError, match=r"x\.nii\.gz: is damaged: it cannot be inflated to its end$"):
        read_image(tmp_path / "x.nii.gz")


def test_members_and_padding_of_a_compressed_file_are_what_gzip_says(tmp_path):
    content = _nifti(_hu())
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + bytes(512))
    (tmp_path / "y.nii").write_bytes(content)
    _assert_same(read_image(tmp_path / "x.nii.gz"), read_image(tmp_path / "y.nii"))


def test_infinity_in_a_nifti_file_is_metal_and_air_as_in_other_formats(tmp_path):
    hu = _hu(dtype="f4")
    hu[0, 0, :3] = np.inf, -np.inf, np.nan
    (tmp_path / "x.nii").write_bytes(_nifti(hu))
    read = np.sort(read_image(tmp_path / "x.nii").voxels_hu, None)
    assert (read[:2].tolist(), read[-1]) == ([-1000, -1000], 3071)


@pytest.mark.parametrize(
    "header",
    [
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\ndata file: ../secret\n\n",
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nendian: little\ndatafile: LIST\n../secret\n",
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: ../secret%d 1 2 1\n\n",
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = ../secret\n",
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = LIST\n../secret\n",
    ],
)
@pytest.mark.parametrize("is_attached", [True, False])
def test_no_header_names_voxels_in_another_folder(tmp_path, header, is_attached):
    (tmp_path / "deep").mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    suffix = (".nrrd" if is_attached else ".nhdr") if header.startswith("NRRD") else (".mha" if is_attached else ".mhd")
    path = tmp_path / "deep" / f"scan{suffix}"
    path.write_text(header)
    for reads in (read_image, detached_files):
        with pytest.raises(ReadError, match=r"names one in another folder"):
            reads(path)
    with pytest.raises(ReadError, match=r"in another folder"):
        decode(path, "image", max_bytes=LIMIT)


@pytest.mark.parametrize("name", ["a\0b", "9" * 5000, "circle"])
def test_a_name_that_no_file_can_have_is_an_error(tmp_path, name):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    head = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = "
    (tmp_path / "x.mhd").write_text(head + name + "\n")
    with pytest.raises(ReadError, match=r"x\.mhd: cannot be read: (the names|its voxels|.*damaged)"):
        read_image(tmp_path / "x.mhd")


def test_voxels_in_a_list_of_files_are_read_and_counted_among_the_files(tmp_path):
    for k in range(4):
        _hu()[k].tofile(tmp_path / f"{k}.raw")
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\nspace: LPS\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,1)\n"
    (tmp_path / "x.nhdr").write_text(head + "data file: LIST 2\n" + "".join(f"{k}.raw\n" for k in range(4)))
    assert [f.name for f in detached_files(tmp_path / "x.nhdr")] == ["0.raw", "1.raw", "2.raw", "3.raw"]
    assert np.array_equal(read_image(tmp_path / "x.nhdr").voxels_hu, _hu())
    (tmp_path / "2.raw").unlink()
    with pytest.raises(ReadError, match="its voxels are missing, they must lie beside it"):
        read_image(tmp_path / "x.nhdr")


def test_a_compressed_stream_that_is_whole_but_too_short_is_an_error(tmp_path):
    """A checksum that is right says nothing about how much there is."""
    path = _write(tmp_path / "scan.mha", _hu(), compressed=True)
    head = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")[0]
    stream = zlib.compress(_hu().tobytes()[:-60])
    head = b"\n".join(
        b"CompressedDataSize = %d" % len(stream) if line.startswith(b"CompressedDataSize") else line
        for line in head.split(b"\n")
    )
    path.write_bytes(head + b"ElementDataFile = LOCAL\n" + stream)
    with pytest.raises(ReadError, match=r"scan\.mha"):
        read_image(path)
    short = gzip.compress(_nifti(_hu())[:-60])
    (tmp_path / "x.nii.gz").write_bytes(short)
    with pytest.raises(ReadError, match=r"x.nii.gz: cannot be read: it lacks 60 of the 240 bytes"):
        read_image(tmp_path / "x.nii.gz")


META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n"
    "ElementSpacing = 1 1 1\nDimSize = 20 24 28\nElementType = MET_SHORT\n"
)
NRRD = (
    "NRRD0005\ntype: int16\ndimension: 3\nsizes: 20 24 28\nspace: left-posterior-superior\nendian: little\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (1,2,3)\n"
)
BIG = np.random.default_rng(5).integers(-1000, 1000, (28, 24, 20)).astype(np.int16)
PACKED = zlib.compress(BIG.astype("<i2").tobytes())


@pytest.mark.parametrize("size", [None, 0, -1, len(PACKED) // 2, len(PACKED) - 1, len(PACKED) + 99, 2**63])
@pytest.mark.parametrize("is_attached", [True, False])
def test_a_compressed_metaimage_is_inflated_whatever_size_its_header_says(tmp_path, size, is_attached):
    head = META + "CompressedData = True\n" + ("" if size is None else f"CompressedDataSize = {size}\n")
    if is_attached:
        path = tmp_path / "a.mha"
        path.write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + PACKED)
    else:
        path = tmp_path / "a.mhd"
        path.write_text(head + "HeaderSize = 7\nElementDataFile = a.zraw\n")
        (tmp_path / "a.zraw").write_bytes(b"1234567" + PACKED)
    assert np.array_equal(read_image(path).voxels_hu, BIG)


def test_keys_of_a_nrrd_in_a_metaimage_say_nothing_of_its_voxels(tmp_path):
    head = META + "Encoding = raw\nByteSkip = 8\nLineSkip = 1\nDataFile = b.raw\nCompressedData = True\n"
    (tmp_path / "a.mha").write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + PACKED)
    assert np.array_equal(read_image(tmp_path / "a.mha").voxels_hu, BIG)


def test_compressed_voxels_have_the_type_and_the_byte_order_of_their_header(tmp_path):
    for name, dtype, msb in (("MET_SHORT", ">i2", True), ("MET_LONG", "<i4", False), ("MET_FLOAT", ">f4", True)):
        head = META.replace("MET_SHORT", name).replace("MSB = False", f"MSB = {msb}") + "CompressedData = True\n"
        packed = zlib.compress(BIG.astype(dtype).tobytes())
        (tmp_path / "a.mha").write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + packed)
        assert np.array_equal(read_image(tmp_path / "a.mha").voxels_hu, BIG), name


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_header_size_that_does_not_lead_to_the_voxels_is_refused(tmp_path, is_compressed):
    head = META + f"CompressedData = {is_compressed}\nHeaderSize = 16\nElementDataFile = LOCAL\n"
    voxels = PACKED if is_compressed else BIG.astype("<i2").tobytes()
    (tmp_path / "a.mha").write_bytes(head.encode() + b"0123456789abcdef" + voxels)
    with pytest.raises(ReadError, match="its HeaderSize must be where its voxels begin, is 16"):
        read_image(tmp_path / "a.mha")


DAMAGES = {
    "cut": lambda packed: packed[: len(packed) // 2],
    "flipped": lambda packed: packed[:60] + bytes([packed[60] ^ 255]) + packed[61:],
    "checksum": lambda packed: packed[:-1] + bytes([packed[-1] ^ 1]),
    "short": lambda packed: zlib.compress(zlib.decompress(packed)[:-2]),
    "long": lambda packed: zlib.compress(zlib.decompress(packed) + b"ab"),
    "empty": lambda packed: b"",
}


@pytest.mark.parametrize("damage", [None, *DAMAGES])
@pytest.mark.parametrize(
    ("suffix", "head", "named"),
    [
        (".mhd", META + "CompressedData = True\n", "ElementDataFile = LIST\n"),
        (".mhd", META + "CompressedData = True\n", "ElementDataFile = s%02d.z 0 27 1\n"),
        (".nhdr", NRRD + "encoding: gzip\n", "data file: LIST\n"),
        (".nhdr", NRRD + "encoding: gzip\n", "data file: s%02d.z 0 27 1\n"),
    ],
)
def test_each_compressed_file_of_a_list_must_hold_its_slice(tmp_path, damage, suffix, head, named):
    slices = [zlib.compress(plane.astype("<i2").tobytes()) for plane in BIG]
    if damage:
        slices[13] = DAMAGES[damage](slices[13])
    for number, packed in enumerate(slices):
        (tmp_path / f"s{number:02d}.z").write_bytes(packed)
    names = "".join(f"s{number:02d}.z\n" for number in range(28)) if "LIST" in named else ""
    (tmp_path / f"a{suffix}").write_text(head + named + names)
    if damage is None:
        assert np.array_equal(read_image(tmp_path / f"a{suffix}").voxels_hu, BIG)
    else:
        with pytest.raises(ReadError, match=r"inflated to its end|lacks 2 of the 960 bytes|must hold 960 bytes"):
            read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ("line skip: 2\n", b"one\ntwo\n" + gzip.compress(BIG.astype("<i2").tobytes())),
        ("byte skip: 5\n", gzip.compress(b"12345" + BIG.astype("<i2").tobytes())),
        ("byte skip: -1\n", gzip.compress(b"12345" + BIG.astype("<i2").tobytes())),
        ("", PACKED),
    ],
    ids=["lines", "bytes", "from the end", "zlib"],
)
def test_what_lies_before_the_compressed_voxels_of_a_nrrd_is_skipped(tmp_path, fields, content):
    (tmp_path / "a.nrrd").write_bytes((NRRD + "encoding: gzip\n" + fields + "\n").encode() + content)
    assert np.array_equal(read_image(tmp_path / "a.nrrd").voxels_hu, BIG)


def test_a_spacing_that_is_no_length_is_an_error(tmp_path):
    path = _write(tmp_path / "x.mha", _hu())
    for spacing in (b"-1 1 1", b"inf 1 1"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0.5 0.75 2", spacing))
        with pytest.raises(GeometryError, match=r"x.mha: the spacing must be positive"):
            read_image(path)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 1 0 0 0 0 1"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 0 inf 0 0 0 1"),
        (b"0.5 0.75 2", b"1e-9 1 1"),
        (b"0.5 0.75 2", b"7e-4 7e-4 2e-3"),
        (b"0.5 0.75 2", b"1e9 1 1"),
        (b"-12.5", b"1e300"),
    ],
)
def test_a_grid_that_cannot_be_is_an_error_in_one_line(tmp_path, was, becomes):
    path = _write(tmp_path / "x.mha", _hu())
    assert was in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(was, becomes))
    with pytest.raises(ReadError, match=r"x\.mha.* (must|cannot)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_findings_of_an_image_say_how_its_grid_lies_and_obey_the_policy(tmp_path):
    tilted = [1, 0, 0, 0, np.cos(0.3), -np.sin(0.3), 0, np.sin(0.3), np.cos(0.3)]
    path = _write(tmp_path / "x.nrrd", _hu(), direction=tilted, spacing=(1, 1, 12))
    found = read_image(path, ReadingConfig(policy="strict")).findings
    assert {(f.code, f.severity) for f in found} >= {("oblique", "note"), ("anisotropic", "note")}
    assert [f.severity for f in found if f.code == "few-slices"] == ["refused"]
