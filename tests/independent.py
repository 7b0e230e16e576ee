"""Reads what Hilum has written, and what it has read, by other libraries alone: for tests of files."""

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def by_nibabel(path):
    """HU (i, j, k), and index (i, j, k) to LPS mm."""
    image = nibabel.load(path)
    return np.asarray(image.dataobj), LPS_FROM_RAS @ image.affine


def by_itk(path):
    """The same, read by SimpleITK."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine


def slices(folder):
    """HU and the LPS mm of the pixels of each slice, by pydicom alone."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not pydicom.misc.is_dicom(path):
            continue
        one = pydicom.dcmread(path)
        row, column = np.reshape(one.ImageOrientationPatient, (2, 3)).astype(float)
        step_y, step_x = map(float, one.PixelSpacing)
        y, x = np.mgrid[: one.Rows, : one.Columns]
        mm = np.array(one.ImagePositionPatient, float) + x[..., None] * step_x * row + y[..., None] * step_y * column
        yield one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept), mm


def assert_holds_slices(content, folder, *, at_least=1):
    """Each pixel of each slice has its HU at its mm in the file; HU are limited to a scanner's."""
    hu, affine = content
    count = 0
    for expected, mm in slices(folder):
        index = np.linalg.solve(affine[:3, :3], (mm.reshape(-1, 3) - affine[:3, 3]).T).T
        nearest = np.rint(index).astype(int)
        assert np.abs((index - nearest) @ affine[:3, :3].T).max() < 2e-3
        assert np.array_equal(hu[tuple(nearest.T)], np.clip(expected, -1024, 3071).ravel())
        count += 1
    assert count >= at_least
