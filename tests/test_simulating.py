import csv
import hashlib
import inspect
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from hilum.errors import ConfigError, GeometryError
from hilum.randomness import generator
from hilum.simulating import (
    Header,
    Lesion,
    Scanner,
    plan_cohort,
    sample_anatomy,
    sample_disease,
    simulate_case,
    simulate_cohort,
    simulate_scan,
    write_dicom,
)
from hilum.simulating.anatomy import lung_volumes_l
from hilum.volume import Volume

QUICK = Scanner(pixel_mm=4.0, pixels=96, thickness_mm=6.0, increment_mm=6.0, noise_hu=15.0)
FINE = Scanner(pixel_mm=1.5, pixels=200, thickness_mm=2.0, increment_mm=2.0, noise_hu=0.0)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _read_series(folder: Path) -> sitk.Image:
    # GDCM sorts along the slice normal, by position, not by name.
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def _geometry(image: sitk.Image) -> np.ndarray:
    return np.array([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()])


def _auc(values: np.ndarray, labels: np.ndarray) -> float:
    ill, well = values[labels == 1], values[labels == 0]
    return float((ill[:, None] > well).mean() + 0.5 * (ill[:, None] == well).mean())


@pytest.fixture(scope="module")
def scan() -> tuple:
    return simulate_scan(7, key="one", disease="mass", scanner=QUICK)


def test_the_same_seed_gives_the_same_scan_and_another_seed_another(scan):
    volume, truth = scan
    again, same = simulate_scan(7, key="one", disease="mass", scanner=QUICK)
    assert np.array_equal(volume.voxels_hu, again.voxels_hu)
    assert np.array_equal(volume.affine, again.affine)
    assert truth.lesions == same.lesions
    other, _ = simulate_scan(8, key="one", disease="mass", scanner=QUICK)
    assert other.shape != volume.shape or not np.array_equal(volume.voxels_hu, other.voxels_hu)


@pytest.mark.parametrize("volume_l", [1.2, 3.0, 7.5])
def test_the_lungs_have_the_wanted_volume_and_the_right_one_its_share(volume_l):
    for n in range(4):
        right, left = lung_volumes_l(sample_anatomy(generator(0, n), volume_l=volume_l))
        assert right + left == pytest.approx(volume_l, rel=0.03)
        assert 0.52 <= right / (right + left) <= 0.58


def test_the_masks_have_the_same_share_as_the_anatomy(scan):
    volume, truth = scan
    litres = [np.count_nonzero(truth.lungs == side) * volume.voxel_mm3 / 1e6 for side in (1, 2)]
    assert litres == pytest.approx(lung_volumes_l(truth.anatomy), rel=0.03)
    assert 0.52 <= litres[0] / sum(litres) <= 0.58


def test_right_is_where_patients_have_it_and_its_dome_is_higher():
    for n in range(4):
        volume, truth = simulate_scan(1, key=str(n), scanner=QUICK)
        right, left = (volume.index_to_mm(np.argwhere(truth.lungs == side)) for side in (1, 2))
        assert right[:, 0].mean() < left[:, 0].mean()
        high = [_top_of_diaphragm(volume, truth.lungs == side) for side in (1, 2)]
        assert high[0] > high[1]
        domes = truth.anatomy.domes_mm
        assert 10 <= domes[0] - domes[1] <= 20


def _top_of_diaphragm(volume: Volume, lung: np.ndarray) -> float:
    columns = lung.any(0)
    lowest = np.argmax(lung, axis=0)[columns]
    # Under the apex of a lung with no diaphragm below it lies the heart; take the columns beside it.
    outer = np.abs(volume.index_to_mm(np.argwhere(columns) @ [[0, 1, 0], [0, 0, 1]])[:, 0])
    return float(np.percentile(lowest[outer > np.percentile(outer, 50)], 95))


def test_air_is_air_and_lungs_are_lungs(scan):
    volume, truth = scan
    lungs = volume.voxels_hu[truth.lungs > 0]
    assert -905 < np.median(lungs) < -700
    assert np.median(volume.voxels_hu[:, :3]) == pytest.approx(-1000, abs=30)
    assert np.median(volume.voxels_hu[truth.airways > 0]) < -850


@pytest.mark.parametrize("prone", [False, True])
def test_the_lung_is_denser_on_the_side_that_lies_down(prone):
    anatomy = sample_anatomy(generator(12), prone=prone)
    volume, truth = simulate_scan(12, anatomy=anatomy, scanner=QUICK)
    inner = (truth.lungs > 0) & (volume.voxels_hu < -750)
    y_mm = volume.index_to_mm(np.argwhere(inner))[:, 1]
    slope_hu_cm = 10 * np.polyfit(y_mm, volume.voxels_hu[inner].astype(float), 1)[0]
    assert (slope_hu_cm < -1) if prone else (slope_hu_cm > 1)


@pytest.mark.parametrize("kind", ["mass", "consolidation", "ground-glass opacity", "solid nodule"])
def test_a_lesion_lies_in_the_lungs_at_its_centre_with_its_density(kind):
    anatomy = sample_anatomy(generator(3, kind))
    wanted = {"solid nodule": 20.0}.get(kind, 40.0)
    places = sample_disease(anatomy, "mass", rng=generator(3, kind, "place"))
    centre = next(p.centre_mm for p in places if p.kind == "mass")
    hu = -500.0 if kind == "ground-glass opacity" else 30.0
    lesion = Lesion(kind=kind, centre_mm=centre, diameter_mm=wanted, hu=hu)
    volume, truth = simulate_scan(3, anatomy=anatomy, lesions=(lesion,), scanner=FINE)
    (found,) = truth.lesions
    index = np.rint(volume.mm_to_index(found.centre_mm)).astype(int)
    assert truth.lesion_numbers[tuple(index)] == 1
    assert np.all(truth.lungs[truth.lesion_numbers > 0] > 0)
    z, y, x = index
    middle = volume.voxels_hu[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
    assert np.median(middle) == pytest.approx(hu, abs=15)


def test_a_lesion_has_the_volume_of_its_diameter():
    anatomy = sample_anatomy(generator(4), volume_l=6.0)
    centre = next(p.centre_mm for p in sample_disease(anatomy, "mass", rng=generator(4, "place")) if p.kind == "mass")
    lesion = Lesion(kind="solid nodule", centre_mm=centre, diameter_mm=14.0, hu=30.0)
    volume, truth = simulate_scan(4, anatomy=anatomy, lesions=(lesion,), scanner=FINE)
    mm3 = np.count_nonzero(truth.lesion_numbers) * volume.voxel_mm3
    assert mm3 == pytest.approx(np.pi / 6 * 14.0**3, rel=0.15)


def test_thick_slices_have_less_noise_and_a_lower_nodule():
    anatomy = sample_anatomy(generator(5), volume_l=5.0)
    centre = next(p.centre_mm for p in sample_disease(anatomy, "mass", rng=generator(5, "place")) if p.kind == "mass")
    nodule = Lesion(kind="solid nodule", centre_mm=centre, diameter_mm=6.0, hu=60.0)
    peaks, noises = [], []
    for thickness in (1.5, 4.0, 8.0):
        for noise_hu in (0.0, 30.0):
            scanner = Scanner(
                pixel_mm=1.5,
                pixels=64,
                thickness_mm=thickness,
                increment_mm=2.0,
                profile="box",
                noise_hu=noise_hu,
                centre_mm=centre[:2],
            )
            volume, truth = simulate_scan(5, anatomy=anatomy, lesions=(nodule,), scanner=scanner)
            if noise_hu == 0:
                clean = volume.voxels_hu.astype(float)
                peaks.append(clean[truth.lesion_numbers > 0].max())
            else:
                noises.append(np.std((volume.voxels_hu - clean)[clean > -900]))
    assert peaks[0] > peaks[1] + 10
    assert peaks[1] > peaks[2] + 50
    assert noises[0] > 1.3 * noises[1] > 1.3 * 1.2 * noises[2]


def test_the_slice_profile_comes_before_sampling():
    # Thin slices far apart and thick ones in the same places: the thick ones see what lies between.
    anatomy = sample_anatomy(generator(6))
    sparse = Scanner(pixel_mm=4.0, pixels=96, thickness_mm=8.0, increment_mm=8.0, noise_hu=0.0)
    thick, _ = simulate_scan(6, anatomy=anatomy, scanner=sparse)
    dense = Scanner(pixel_mm=4.0, pixels=96, increment_mm=1.0, thickness_mm=1.0, noise_hu=0.0)
    thin, _ = simulate_scan(6, anatomy=anatomy, scanner=dense)
    fine = thin.voxels_hu.astype(float)
    k = 20
    # Slice k of the thick scan is centred on thin slice 8 k and reaches half a slice beyond its eight neighbours.
    mean = (fine[8 * k - 4] / 2 + fine[8 * k - 3 : 8 * k + 4].sum(0) + fine[8 * k + 4] / 2) / 8
    assert np.abs(thick.voxels_hu[k] - mean).mean() < 5
    assert np.abs(thick.voxels_hu[k] - fine[8 * k]).mean() > 5


def test_noise_is_not_white_and_the_sharp_kernel_has_more_of_it_and_finer():
    spectra = {}
    for kernel in ("soft", "sharp"):
        pair = []
        for noise_hu in (0.0, 20.0):
            scanner = Scanner(
                pixel_mm=0.8, pixels=128, thickness_mm=4.0, increment_mm=20.0, kernel=kernel, noise_hu=noise_hu
            )
            pair.append(simulate_scan(9, scanner=scanner)[0].voxels_hu.astype(float))
        noise = (pair[1] - pair[0])[:, 32:96, 32:96]
        power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
        radius = np.hypot(np.fft.fftfreq(64, 0.8)[:, None], np.fft.fftfreq(64, 0.8))
        spectra[kernel] = [power[(radius >= f) & (radius < f + 0.06)].mean() for f in (0.02, 0.22, 0.5)]
    low, middle, high = spectra["soft"]
    assert middle > 2 * low
    assert middle > 2 * high
    assert spectra["sharp"][2] > 5 * high


def test_dicom_and_images_describe_the_same_grid_and_the_same_hu(scan, tmp_path):
    volume, _ = scan
    write_dicom(volume, tmp_path / "series", header=Header())
    series = _read_series(tmp_path / "series")
    voxels = sitk.GetArrayFromImage(series)
    assert np.array_equal(voxels, volume.voxels_hu)
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        volume.write(tmp_path / name)
        image = sitk.ReadImage(str(tmp_path / name))
        assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
        assert _geometry(image) == pytest.approx(_geometry(series), abs=2e-4)
    corner = volume.index_to_mm([3, 5, 7])
    assert series.TransformIndexToPhysicalPoint((7, 5, 3)) == pytest.approx(tuple(corner), abs=1e-4)


@pytest.mark.parametrize("intercept", [0, -1000, -1024, -8192])
@pytest.mark.parametrize("position", ["HFS", "FFS", "HFP", "FFP"])
def test_storage_changes_neither_hu_nor_place(tmp_path, intercept, position):
    rng = generator(0, "storage")
    voxels = rng.integers(-1024, 2000, (4, 6, 5)).astype(np.int16)
    voxels[:, 0, 0] = -2000
    volume, _ = simulate_scan(1, scanner=Scanner(pixel_mm=8.0, pixels=48, thickness_mm=20.0, increment_mm=20.0))
    volume = Volume(voxels_hu=voxels, affine=volume.affine)
    paths = write_dicom(volume, tmp_path, header=Header(intercept=intercept, position=position))
    for k, path in enumerate(paths):
        file = pydicom.dcmread(path)
        assert int(file.RescaleIntercept) == intercept
        assert file.PixelPaddingValue == -2000 - intercept
        hu = file.pixel_array.astype(int) + intercept
        across, down = np.reshape([float(v) for v in file.ImageOrientationPatient], (2, 3))
        # The pixel in row 2, column 1, wherever the picture begins (DICOM PS3.3, C.7.6.2.1.1).
        step_y, step_x = (float(v) for v in file.PixelSpacing)
        place = np.array([float(v) for v in file.ImagePositionPatient]) + 2 * step_y * down + step_x * across
        z, y, x = np.rint(volume.mm_to_index(place)).astype(int)
        assert z == k
        assert hu[2, 1] == voxels[z, y, x]
        assert volume.index_to_mm([z, y, x]) == pytest.approx(place, abs=1e-3)


def test_the_order_of_the_names_is_not_the_order_of_the_slices(scan, tmp_path):
    volume, _ = scan
    paths = write_dicom(volume, tmp_path, header=Header())
    assert sorted(paths) != list(paths)
    assert sorted(paths) != list(paths)[::-1]


def test_the_same_volume_gives_the_same_bytes(scan, tmp_path):
    volume, _ = scan
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_dicom(volume, folder / "series", header=Header())
        for name in ("v.nii.gz", "v.nrrd", "v.mha"):
            volume.write(folder / name)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    # A gzip header may hold the time; two writes within a second would not show it.
    assert (tmp_path / "a" / "v.nii.gz").read_bytes()[4:8] == b"\0\0\0\0"


def test_padding_lies_outside_a_circle_and_nowhere_else():
    scanner = Scanner(pixel_mm=4.0, pixels=96, thickness_mm=20.0, increment_mm=20.0, padding=True)
    volume, _ = simulate_scan(2, scanner=scanner)
    padded = volume.voxels_hu == -2000
    assert padded[:, 0, 0].all()
    assert not padded[:, 48, 48].any()
    assert padded[0].mean() == pytest.approx(1 - np.pi / 4, abs=0.02)
    assert volume.voxels_hu[~padded].min() >= -1024


def test_exactly_the_wanted_share_is_diseased_and_patients_keep_their_label():
    for num_cases, share in ((150, 0.2), (37, 0.3), (10, 0.0)):
        cases = plan_cohort(num_cases, seed=2, diseased=share)
        assert len(cases) == num_cases
        assert sum(case.label for case in cases) == round(num_cases * share)
        diseases: dict[str, set[str]] = {}
        for case in cases:
            diseases.setdefault(case.patient_id, set()).add(case.disease)
        assert all(len(found) == 1 for found in diseases.values())
    cases = plan_cohort(150, seed=2)
    assert 5 <= 150 - len({case.patient_id for case in cases}) <= 30
    assert {case.disease for case in cases} == {"none", "mass", "consolidation", "ground-glass opacity"}


def test_the_number_of_workers_does_not_change_the_cohort(tmp_path):
    tables = [
        simulate_cohort(tmp_path / str(n), num_cases=3, seed=4, diseased=0.4, pixel_mm=12.0, workers=n) for n in (1, 2)
    ]
    assert _digests(tmp_path / "1") == _digests(tmp_path / "2")
    with tables[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case_id"] for row in rows] == ["case-0001", "case-0002", "case-0003"]
    assert sum(int(row["label"]) for row in rows) == 1
    for row in rows:
        names = pydicom.dcmread(next((tables[0].parent / row["path"]).iterdir()), stop_before_pixels=True)
        assert names.PatientID == row["patient_id"]
        assert names.ConvolutionKernel == row["kernel"]


@pytest.mark.slow
def test_mean_lung_density_alone_does_not_tell_the_diseased():
    cases = plan_cohort(50, seed=1, diseased=0.5)
    means = []
    for case in cases:
        volume, truth = simulate_case(case, seed=1, pixel_mm=8.0)
        assert truth.label == case.label
        means.append(volume.voxels_hu[truth.lungs > 0].mean())
    auc = _auc(np.array(means), np.array([case.label for case in cases]))
    assert 0.55 < auc < 0.80


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Scanner(pixel_mm=0.0), r"pixel_mm must be positive, got 0"),
        (lambda: Lesion(kind="mass", centre_mm=(0.0, 0.0, 0.0), diameter_mm=-3.0, hu=0.0), r"diameter must .* got -3"),
        (lambda: plan_cohort(0, seed=0), r"num_cases must be at least 1, got 0"),
        (lambda: plan_cohort(5, seed=0, diseased=1.5), r"between 0 and 1, got 1.5"),
        (lambda: sample_anatomy(generator(0), volume_l=30.0), r"1.2 to 7.5 litres, got 30"),
    ],
)
def test_a_wrong_setting_is_named(call, match):
    with pytest.raises(ConfigError, match=match):
        call()


def test_what_a_format_cannot_hold_is_refused(scan, tmp_path):
    volume, _ = scan
    floating = Volume(voxels_hu=volume.voxels_hu.astype(np.float32), affine=volume.affine)
    with pytest.raises(ConfigError, match="whole HU, int16, got float32"):
        write_dicom(floating, tmp_path, header=Header())
    with pytest.raises(ConfigError, match=r"must be named one of .*\.nrrd.*, got a\.png"):
        volume.write(tmp_path / "a.png")
    sheared = volume.affine.copy()
    sheared[1, 0] = 2.0
    with pytest.raises(GeometryError, match="sheared"):
        Volume(voxels_hu=volume.voxels_hu, affine=sheared).write(tmp_path / "a.nrrd")


def test_an_unknown_disease_is_refused_with_the_known_ones():
    without_types = inspect.unwrap(sample_disease)  # in tests the types of arguments are checked before
    with pytest.raises(ConfigError, match="none, mass, consolidation, ground-glass opacity, got 'nodules'"):
        without_types(sample_anatomy(generator(0)), "nodules", rng=generator(0))
