"""Numbers that cannot be HU are refused, and those that can are not."""

import dataclasses
import re

import numpy as np
import pytest

from hilum.errors import GeometryError
from hilum.findings import STANDARD
from hilum.reading.doctor import examine
from hilum.reading.hu_check import check_hu
from hilum.reading.reader import read
from hilum.settings.run import ReadingConfig
from hilum.simulating import plan_cohort, simulate_case
from hilum.volume import Volume, crop


@pytest.fixture(scope="module")
def chest() -> Volume:
    """A simulated chest on a coarse grid."""
    return simulate_case(plan_cohort(1, seed=3)[0], seed=3, pixel_mm=4.0)[0]


def _with(volume: Volume, voxels: np.ndarray) -> Volume:
    limited = np.clip(np.rint(voxels), -1024, 3071).astype(np.int16)
    return dataclasses.replace(volume, voxels_hu=limited, findings=())


def test_a_chest_has_its_air_airways_fat_and_muscle_where_they_belong(chest):
    levels, findings = check_hu(chest, STANDARD)
    assert findings == []
    assert -1024 <= levels.airways <= -900
    assert levels.air is None or levels.air < -900
    assert levels.fat is None or -130 <= levels.fat <= -70
    assert 0 <= levels.muscle <= 80
    assert 500 < levels.lungs_ml < 8000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda hu: hu + 1024.0, "lie above 700 HU, as if 1000 or 1024 had not been taken off"),
        (lambda hu: hu + 1000.0, "lie above 700 HU"),
        (lambda hu: hu - 1024.0, "soft tissue is|the scan is empty"),
        (lambda hu: np.clip((hu + 1000.0) / 1400, 0, 1), "no voxels are as dark as fat or air: the darkest is 0 HU"),
        (lambda hu: np.clip((hu + 1000.0) / 1400 * 255, 0, 255), "no voxels are as dark as fat or air"),
        (lambda hu: (hu > -500) * 1.0, "no voxels are as dark as fat or air"),
        (lambda hu: hu * 0.0 - 1000, "the scan is empty"),
        (lambda hu: hu + 250.0, r"soft tissue peaks at [23]\d\d HU|lie above 700 HU"),
    ],
    ids=["stored values", "plus 1000", "taken off twice", "0 to 1", "0 to 255", "a mask", "air", "plus 250"],
)
def test_what_is_no_hu_is_refused_with_the_number_that_shows_it(chest, damage, message):
    _, findings = check_hu(_with(chest, damage(chest.voxels_hu.astype(np.float32))), STANDARD)
    assert [f.code for f in findings] == ["hu-implausible"]
    assert findings[0].severity == "refused"
    assert re.search(message, findings[0].message), findings[0].message


@pytest.mark.parametrize("noise_hu", [0.0, 30.0, 90.0])
@pytest.mark.parametrize("shift_hu", [-30.0, 0.0, 30.0])
def test_noise_and_a_little_drift_are_no_reason_to_refuse(chest, noise_hu, shift_hu):
    noise = np.random.default_rng(0).normal(0, noise_hu, chest.shape) if noise_hu else 0.0
    _, findings = check_hu(_with(chest, chest.voxels_hu + shift_hu + noise), STANDARD)
    assert findings == []


def test_a_crop_decides_nothing(chest):
    z, y, x = (n // 2 for n in chest.shape)
    part = crop(chest, (z - 2, y - 8, x - 8), (z + 2, y + 8, x + 8))
    assert check_hu(_with(part, part.voxels_hu + 1024.0), STANDARD) == (None, [])


def test_a_field_without_lungs_is_noted(chest):
    solid = np.where(chest.voxels_hu > -1000, np.maximum(chest.voxels_hu, -120), chest.voxels_hu)
    _, findings = check_hu(_with(chest, solid), STANDARD)
    assert [(f.code, f.severity) for f in findings] == [("no-air", "note")]


def test_lungs_in_a_tight_field_are_lungs(chest):
    """All around is lung or chest wall: no air lies outside."""
    _, y, x = chest.shape
    part = crop(chest, (0, y // 4, x // 5), (chest.shape[0], y - y // 4, x - x // 5))
    _, findings = check_hu(dataclasses.replace(part, findings=()), STANDARD)
    assert findings == []


def test_an_image_of_stored_values_is_not_believed(tmp_path, chest):
    """An unsigned NIfTI of HU + 1024, as some converters write it."""
    _with(chest, chest.voxels_hu + 1024.0).write(tmp_path / "scan.nii.gz")
    with pytest.raises(GeometryError, match=r"hu-implausible \(refused\)"):
        read(tmp_path / "scan.nii.gz")
    noted = read(tmp_path / "scan.nii.gz", reading=ReadingConfig(policy="lenient"))
    assert [(f.code, f.severity) for f in noted.findings][-1] == ("hu-implausible", "note")
    (examined,), _ = examine(tmp_path, pictures=True)
    assert examined.verdict == "refused"
    assert len(examined.planes) == 3


@pytest.mark.parametrize("name", ["lidc-0314", "lung-dx-a0001", "ct-64/ct-64.nrrd", "odd/abdomen.nii.gz"])
def test_real_scans_are_plausible(shared_data, name):
    volume = read(shared_data / name)
    levels, findings = check_hu(volume, STANDARD)
    assert findings == []
    assert -1010 <= levels.airways <= -900
    assert -130 <= levels.fat <= -70
    assert 0 <= levels.muscle <= 80


@pytest.mark.parametrize("name", ["ct-64/wholeLung-64.nrrd", "ct-64/lm-64.nrrd"])
def test_real_label_maps_are_no_scans(shared_data, name):
    with pytest.raises(GeometryError, match="hu-implausible"):
        read(shared_data / name)
