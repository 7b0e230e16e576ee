"""Converts lists, table columns and tensors to checked NumPy arrays."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from hilum.errors import CohortError, ConfigError, GeometryError


@runtime_checkable
class HasArray(Protocol):
    """Table columns, tensors and other objects that NumPy can convert."""

    def __array__(self) -> np.ndarray:
        """The values as an array."""


_LARGEST_WHOLE = 2.0**53
"""Above this, float64 cannot represent every whole number."""

ArrayLike: TypeAlias = np.ndarray | Sequence[Any] | HasArray
"""Replaces ``numpy.typing.ArrayLike``, which rejects tuples when it is checked at run time."""


def whole(values: ArrayLike, what: str, *, axes: tuple[int, ...] = (1,)) -> Int[np.ndarray, "..."]:
    """Convert to whole numbers, such as labels; booleans and floats without fractions are accepted.

    Raises:
        ConfigError: If the values are not whole numbers, or have another number of axes.
    """
    array = _array(values)
    if array is not None and array.dtype.kind in "bf" and _are_whole(array):
        array = array.astype(np.int64)
    return _checked(array, what, "whole numbers", "iu", axes)


def real(values: ArrayLike, what: str, *, axes: tuple[int, ...] = (1,)) -> Float[np.ndarray, "..."]:
    """Convert to floating-point numbers, such as probabilities and logits; whole numbers become float64.

    Raises:
        ConfigError: If the values are not numbers, or have another number of axes.
    """
    array = _array(values)
    if array is not None and array.dtype.kind in "biu":
        array = array.astype(np.float64)
    return _checked(array, what, "numbers", "f", axes)


def flags(values: ArrayLike, what: str, *, axes: tuple[int, ...] = (1,)) -> Bool[np.ndarray, "..."]:
    """Convert decisions to booleans; of whole numbers, 0 alone is False.

    Raises:
        ConfigError: If the values are neither, or have another number of axes.
    """
    return whole(values, what, axes=axes).astype(bool)


def three(values: ArrayLike, what: str) -> Float[np.ndarray, "3"]:
    """Convert to an array of three numbers.

    Raises:
        GeometryError: If the values are not three numbers.
    """
    try:
        numbers = np.asarray(values, np.float64)
    except (ValueError, TypeError):
        numbers = np.empty(0)
    if numbers.shape != (3,):
        msg = f"{what} must be three numbers, got {values!r}"
        raise GeometryError(msg)
    return numbers


def labelled(
    y: ArrayLike, p: ArrayLike, *, what: str = "probabilities", axes: tuple[int, ...] = (1,)
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n ..."]]:
    """Convert labels (n,), and probabilities or logits of the same cases.

    Raises:
        ConfigError: If the values are not such numbers, or their lengths differ.
    """
    labels, numbers = whole(y, "labels"), real(p, what, axes=axes)
    check_same_cases(labels, numbers, what)
    return labels, numbers


def check_same_cases(labels: np.ndarray, numbers: np.ndarray, what: str) -> None:
    """Raise a ConfigError unless there is one label for each case."""
    if len(labels) != len(numbers):
        msg = f"there must be a label for each case, got {len(labels)} labels for {what} of {len(numbers)} cases"
        raise ConfigError(msg)


def patient_index(patients: Sequence[str], num_cases: int) -> Int[np.ndarray, " n"]:
    """Number of each case's patient, from 0, in the order of the sorted ids.

    Raises:
        CohortError: If there is not one patient for each case.
    """
    if len(patients) != num_cases:
        msg = f"there must be a patient for each case, got {len(patients)} patients for {num_cases} cases"
        raise CohortError(msg)
    return np.asarray(np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1].reshape(-1))


def _are_whole(array: np.ndarray) -> bool:
    """Whether floats or booleans are whole numbers that int64 can hold."""
    return bool(np.all(np.abs(array.astype(np.float64)) < _LARGEST_WHOLE) and np.array_equal(array, np.rint(array)))


def _array(values: ArrayLike) -> np.ndarray | None:
    if np.ma.is_masked(values):
        return None
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # rows of several lengths; a tensor on another device
        return None


def _checked(array: np.ndarray | None, what: str, must: str, kinds: str, axes: tuple[int, ...]) -> np.ndarray:
    if array is None or array.dtype.kind not in kinds or array.ndim not in axes:
        got = "something else" if array is None else f"{array.dtype} of shape {array.shape}"
        shape = " or ".join({1: "(n,)", 2: "(n, c)"}.get(n, f"of {n} axes") for n in axes)
        msg = f"{what} must be an array, or something like one, of {must}, {shape}; got {got}"
        raise ConfigError(msg)
    return array
