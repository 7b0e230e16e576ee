"""Keeps, beside the volume of a scan, the DICOM slices that it was made of: their headers and their places in it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom.errors import InvalidDicomError

from hilum.errors import ReadError
from hilum.orientation import Turn, canonical
from hilum.reading.dicom.series import Series
from hilum.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceSlice:
    """One measured slice of a scan.

    Attributes:
        name: Its name in findings.
        file: Number of its file among the files of the scan, from 0.
        frame: Number of its frame in that file, from 1.
        position_mm: Centre of its first pixel, LPS (x, y, z).
        plane: The nearest plane of the volume, counted along the slices before the volume was turned.
    """

    name: str = field(repr=False)
    file: int
    frame: int
    position_mm: tuple[float, float, float]
    plane: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanSource:
    """A scan and what it was read from.

    Attributes:
        volume: The scan, as ``read`` gives it.
        slices: Its measured slices, in order along their normal, repeated ones left out; empty if it is not DICOM.
        headers: A pydicom ``Dataset`` without pixels for each file, if asked for. Names, ids and dates are in them:
            they may only enter DICOM objects that return to the source.
        turn: How planes (slice, row, column) turn into the volume's axes; None if it is not DICOM.
    """

    volume: Volume
    slices: tuple[SourceSlice, ...] = field(default=(), repr=False)
    headers: tuple[Any, ...] = field(default=(), repr=False)
    turn: Turn | None = None

    def on_slices(self, values: Shaped[np.ndarray, "z y x"]) -> Shaped[np.ndarray, "n rows columns"]:
        """Values on the volume's grid as planes of the measured slices, each from the plane of the volume at its place.

        Planes of the volume that were interpolated have no slice, and are left out.

        Raises:
            ReadError: If the source is not DICOM.
        """
        if self.turn is None:
            msg = "the source must be DICOM to have slices"
            raise ReadError(msg)
        planes = self.turn.unturned(values)
        return np.ascontiguousarray(planes[[one.plane for one in self.slices]])

    def place_mm(self, where: str) -> tuple[float, float, float] | None:
        """Centre of the slice that a finding names, LPS (x, y, z) in mm; None if it names none."""
        names = (where, where.removeprefix("after "), where.partition(", ")[0])
        named = next((one for one in self.slices if one.name in names), None)
        if named is None or self.turn is None:
            return None
        axis, index = self.turn.moved(0, named.plane)
        centre = [(n - 1) / 2 for n in self.volume.shape]
        centre[axis] = index
        x, y, z = self.volume.index_to_mm(centre).tolist()
        return x, y, z


def source_of(series: Series, volume: Volume, *, headers: bool) -> ScanSource:
    """The source of a volume that was loaded from a series.

    Raises:
        ReadError: If headers are asked for and pydicom cannot read one.
    """
    grid = series.stack
    assert grid.affine is not None  # else a finding refused it  # noqa: S101
    order = [at for at, repeated in zip(grid.order.tolist(), grid.repeated, strict=True) if not repeated]
    frames = [series.frames[at] for at in order]
    files = list(dict.fromkeys(frame.path for frame in frames))
    planes = np.rint(np.interp(np.arange(len(frames)), grid.at, np.arange(len(grid.at)))).astype(int).tolist()
    number = {path: n for n, path in enumerate(files)}
    slices = []
    for frame, plane in zip(frames, planes, strict=True):
        assert frame.position_mm is not None  # else a finding refused it  # noqa: S101
        slices.append(
            SourceSlice(
                name=frame.name,
                file=number[frame.path],
                frame=frame.index + 1,
                position_mm=frame.position_mm,
                plane=plane,
            )
        )
    turn, _ = canonical(grid.affine, (len(grid.at), *frames[0].header.shape))
    found = []
    for path in files if headers else ():
        try:
            found.append(pydicom.dcmread(path, stop_before_pixels=True, force=True))
        except (OSError, InvalidDicomError, ValueError, NotImplementedError) as exc:
            msg = "its header cannot be read as a whole"
            raise ReadError(msg, path=path) from exc
    return ScanSource(volume=volume, slices=tuple(slices), headers=tuple(found), turn=turn)
