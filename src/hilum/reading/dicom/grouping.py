"""Groups frames into candidate volumes by their headers, not by their folders."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations

import numpy as np

from hilum.reading.dicom.frames import Frame
from hilum.reading.dicom.values import number, trimmed_time
from hilum.reading.geometry import MIN_SLICES, SAME_POSITION_MM, are_parallel, usual_step

_IMAGE_TYPE_VALUES = 4
"""Values of ImageType that tell volumes apart; later ones are the vendor's own remarks."""

_SERIES = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID")
_MOMENTS = (
    "StackID", "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionDateTime",
    "FrameAcquisitionDateTime", "AcquisitionTime",
    "TriggerTime", "NominalPercentageOfCardiacPhase", "KVP", "ContentTime",
)  # fmt: skip
"""Elements that separate phases at the same positions, in the order in which they are tried."""

_ACQUISITIONS = ("StackID", "FrameOfReferenceUID", "AcquisitionNumber", "AcquisitionDateTime", "AcquisitionTime")
"""Elements that separate series to which an anonymiser gave one UID, where their slices interleave."""

_RECONSTRUCTIONS = ("SliceThickness", "ReconstructionDiameter", "SeriesNumber", "SeriesDescription")
"""Elements that then separate the reconstructions of one acquisition, beside image type and kernel."""

_NUMBERS = frozenset(
    [
        "SliceThickness", "ReconstructionDiameter", "SeriesNumber", "AcquisitionNumber", "TemporalPositionIdentifier",
        "KVP", "TriggerTime",
    ]
)  # fmt: skip
_TIMES = frozenset(["AcquisitionDateTime", "FrameAcquisitionDateTime", "AcquisitionTime", "ContentTime"])

_ROUNDED_MM, _SAME_STEP = 0.11, 0.02
"""Steps of an even stack differ by no more: one decimal may be rounded at both ends."""

TELLING = (*_MOMENTS, *_RECONSTRUCTIONS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Frames that could be one volume.

    Attributes:
        frames: The frames, in the order in which they were found.
        num_orientations: Number of orientations in its series.
        told_apart_by: Criteria that separate it from others of its series: ``image type``, ``kernel``, keywords of
            elements; empty where the series is one volume.
    """

    frames: list[Frame]
    num_orientations: int = 1
    told_apart_by: tuple[str, ...] = ()


def group_frames(frames: Iterable[Frame]) -> list[list[Group]]:
    """The volumes of each SeriesInstanceUID: frames alike in orientation, image type and kernel, and then by phase.

    A blank or copied SeriesInstanceUID does not bring two patients or studies together; where study and patient are
    blank too, neither two folders.
    """
    series: dict[bytes, dict[tuple[bytes, ...], list[Frame]]] = {}
    for frame in frames:
        uid, *study = (frame.values.get(keyword, b"") for keyword in _SERIES)
        if not uid and not any(study):  # only the folder is left to separate them
            study.append(os.fsencode(frame.path.parent))
        series.setdefault(uid, {}).setdefault(tuple(study), []).append(frame)
    return [_groups(list(studies.values())) for studies in series.values()]


def _groups(studies: list[list[Frame]]) -> list[Group]:
    """The volumes under one SeriesInstanceUID, of one study or, where the UID was copied, of several."""
    names = [k for k in _SERIES[1:] if len({study[0].values.get(k, b"") for study in studies}) > 1]
    return [group for study in studies for group in _groups_of_one(study, names)]


def _groups_of_one(frames: list[Frame], names: list[str]) -> list[Group]:
    """The volumes of one series.

    Args:
        frames: Frames of one patient and study.
        names: Elements that separate this study from others.
    """
    kinds: list[list[Frame]] = []
    orientations: list[Frame] = []
    for alike in sorted(_by_header(frames), key=lambda one: _num_blanks(one[0])):  # the most complete headers first
        first = alike[0]
        if not any(are_parallel(first, one) for one in orientations):
            orientations.append(first)
        same = [k for k in kinds if _are_one_kind(k[0], first)]
        if len(same) == 1 and (not _num_blanks(first) or _fits(alike, same[0])):
            same[0] += alike
        else:
            kinds.append(alike)
    names = [*names]
    if len({k[0].header.image_type[:_IMAGE_TYPE_VALUES] for k in kinds}) > 1:
        names.append("image type")
    if len({k[0].header.kernel for k in kinds}) > 1:
        names.append("kernel")
    groups = []
    for kind in kinds:
        found = {id(frame): n for n, frame in enumerate(frames)} if len(kinds) > 1 else {}
        ordered = sorted(kind, key=lambda f: found[id(f)]) if found else kind  # used at once
        keywords, phases = _phases(ordered)
        told = (*names, *keywords)
        groups += [Group(frames=p, num_orientations=len(orientations), told_apart_by=told) for p in phases]
    return groups


def _by_header(frames: list[Frame]) -> list[list[Frame]]:
    """Frames that share one header object: few lists, however many slices."""
    lists: dict[int, list[Frame]] = {}
    for frame in frames:
        lists.setdefault(id(frame.header), []).append(frame)
    return list(lists.values())


def _num_blanks(frame: Frame) -> int:
    return (not frame.header.kernel) + (not frame.header.image_type)


def _fits(silent: list[Frame], others: list[Frame]) -> bool:
    """Whether slices with blank tags fill the gaps of others or continue them, and do not lie half-way between them."""
    steps = np.diff(_along(others)), np.diff(_along([*others, *silent]))
    if min(map(len, steps)) < MIN_SLICES:
        return True
    return usual_step(steps[1]) > 0.75 * usual_step(steps[0])


def _are_one_kind(one: Frame, other: Frame) -> bool:
    """True where image type, kernel and orientation of two slices agree; a blank value agrees with any."""
    a, b = one.header, other.header
    types = a.image_type[:_IMAGE_TYPE_VALUES], b.image_type[:_IMAGE_TYPE_VALUES]
    same_type = types[0] == types[1] or not all(types)
    same_kernel = a.kernel == b.kernel or not (a.kernel and b.kernel)
    return same_type and same_kernel and are_parallel(one, other)


def _phases(frames: list[Frame]) -> tuple[tuple[str, ...], list[list[Frame]]]:
    """The volumes of frames that repeat their positions or interleave, and the keywords that separate them.

    Acquisitions that follow one another along the stack are one volume, even where they meet in a slice: a scanner may
    count its rotations so.
    """
    repeats = _repeats(_along(frames))
    keywords = (_MOMENTS if repeats else _ACQUISITIONS) + _RECONSTRUCTIONS
    most = len(frames) // MIN_SLICES
    said = {k: [spelt(k, frame.values.get(k, b"")) for frame in frames] for k in keywords}
    varying = [k for k in keywords if 1 < len(set(said[k])) <= most]
    for count in (1, 2):  # two phases of two thicknesses are four volumes
        for chosen in combinations(varying, count):
            parts: dict[tuple[str | float, ...], list[Frame]] = {}
            for frame, *values in zip(frames, *(said[k] for k in chosen), strict=True):
                parts.setdefault(tuple(values), []).append(frame)
            places = [_along(part) for part in parts.values()]
            if min(map(len, places)) < MIN_SLICES or any(map(_repeats, places)) or not _interleave(places):
                continue
            if repeats or all(map(_is_even, places)):  # a tag that a few slices lack, or spell otherwise, leaves gaps
                return chosen, list(parts.values())
    return (), [frames]


def spelt(keyword: str, raw: bytes) -> str | float:
    """A value in one spelling: 1.25 and 1.250, 101010 and 101010.000, CHEST and Chest are the same."""
    value = number(raw) if keyword in _NUMBERS and raw else None
    if value is not None:
        return value
    text = raw.decode("latin-1")
    return trimmed_time(text) if keyword in _TIMES else " ".join(text.upper().split())


def _is_even(places: list[float]) -> bool:
    """True where slices form one even stack, but for the rounding of positions: no slice of it is missing."""
    steps = np.diff(places)
    step = float(np.median(steps))
    return bool(np.abs(steps - step).max() <= max(_ROUNDED_MM, _SAME_STEP * step))


def _along(frames: list[Frame]) -> list[float]:
    """Positions of frames along their normal, sorted, in mm; none where the file has none."""
    header = frames[0].header
    if header.directions is None:
        return []
    x, y, z = header.normal.tolist()
    return sorted(p[0] * x + p[1] * y + p[2] * z for f in frames if (p := f.position_mm) is not None)


def _repeats(places: list[float]) -> bool:
    """True where two frames lie at one position."""
    return any(b - a < SAME_POSITION_MM for a, b in pairwise(places))


def _interleave(places: list[list[float]]) -> bool:
    """True where a slice of one part lies between two of another; meeting in a slice is no interleaving."""
    return any(one[0] < place < one[-1] for one, other in permutations(places, 2) for place in other[1:-1])
