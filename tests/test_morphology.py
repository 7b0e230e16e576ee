"""Morphology by shifting arrays agrees with SciPy's, voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from hilum.preparing.lungs.morphology import dilated, eroded, filled_slices, opened, opened_by_ball, squares_to

SHAPES = [(9, 20, 23), (1, 9, 8), (7, 1, 5), (4, 6, 1)]


def masks(shape):
    random = np.random.default_rng(7)
    for share in (0.02, 0.5, 0.8, 0.97):
        yield random.random(shape) < share
    yield np.zeros(shape, bool)
    yield np.ones(shape, bool)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_erosion_and_dilation_are_scipys(shape, times):
    for mask in masks(shape):
        assert np.array_equal(eroded(mask, times), ndimage.binary_erosion(mask, iterations=times))
        assert np.array_equal(dilated(mask, times), ndimage.binary_dilation(mask, iterations=times))
        assert np.array_equal(opened(mask), ndimage.binary_opening(mask))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1.0, 1.81, 3.4])
def test_opening_by_a_ball_is_scipys(shape, radius):
    reach = int(radius)
    ball = np.square(np.indices((2 * reach + 1,) * 3) - reach).sum(axis=0) <= radius**2
    for mask in masks(shape):
        assert np.array_equal(opened_by_ball(mask, radius), ndimage.binary_opening(mask, ball))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1.5, 5.33, 8.0, 14.2])
def test_squares_are_exact_within_the_radius_and_larger_beyond(shape, radius):
    for mask in masks(shape):
        if not mask.any():
            assert (squares_to(mask, radius) > radius**2).all()
            continue
        true = np.rint(ndimage.distance_transform_edt(~mask) ** 2)
        squares = squares_to(mask, radius)
        within = true <= radius**2
        assert np.array_equal(squares[within], true[within])
        assert (squares[~within] > radius**2).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_each_slice_is_filled_as_scipy_fills_it(shape):
    for mask in masks(shape):
        cross = ndimage.generate_binary_structure(2, 1)
        assert np.array_equal(filled_slices(mask), [ndimage.binary_fill_holes(plane, cross) for plane in mask])
