"""Sorts the frames of a folder into what could each be one volume, by what they say, never by where they lie."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from hilum.reading.elements import texts
from hilum.reading.geometry import MIN_SLICES, SAME_POSITION_MM, are_parallel
from hilum.reading.headers import Frame

_IMAGE_TYPE_VALUES = 4
"""Values of ImageType that tell volumes apart; later ones are the vendor's own remarks."""

_MOMENTS = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionDateTime",
    "FrameAcquisitionDateTime", "AcquisitionTime", "ContentTime",
)  # fmt: skip
"""What tells the phases of a series apart, in the order in which they are tried."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Frames that could be one volume.

    Attributes:
        frames: In the order in which they were found.
        num_orientations: How many orientations its series has.
        told_apart_by: What tells it from other volumes of its series: ``image type``, ``kernel``, the keyword of a
            moment; empty where the series is one volume.
    """

    frames: list[Frame]
    num_orientations: int = 1
    told_apart_by: tuple[str, ...] = ()


def group_frames(frames: Iterable[Frame]) -> list[Group]:
    """Frames by series, orientation, image type and kernel; by acquisition or time where positions repeat."""
    series: dict[str, list[Frame]] = {}
    for frame in frames:
        series.setdefault(frame.text("SeriesInstanceUID"), []).append(frame)
    return [group for members in series.values() for group in _groups(members)]


def _groups(frames: list[Frame]) -> list[Group]:
    """The volumes of one series."""
    kinds: list[list[Frame]] = []
    orientations: list[Frame] = []
    for alike in _by_header(frames):
        first = alike[0]
        if not any(are_parallel(first, one) for one in orientations):
            orientations.append(first)
        same = next((k for k in kinds if _are_one_kind(k[0], first)), None)
        if same is None:
            kinds.append(alike)
        else:
            same += alike
    names = []
    if len({k[0].header.image_type[:_IMAGE_TYPE_VALUES] for k in kinds}) > 1:
        names.append("image type")
    if len({k[0].header.kernel for k in kinds}) > 1:
        names.append("kernel")
    groups = []
    for kind in kinds:
        found = {id(frame): n for n, frame in enumerate(frames)} if len(kinds) > 1 else {}
        ordered = sorted(kind, key=lambda f: found[id(f)]) if found else kind  # used at once
        keyword, phases = _phases(ordered)
        told = (*names, keyword) if keyword else tuple(names)
        groups += [Group(frames=p, num_orientations=len(orientations), told_apart_by=told) for p in phases]
    return groups


def _by_header(frames: list[Frame]) -> list[list[Frame]]:
    """Frames that share one header object: few lists, however many slices."""
    lists: dict[int, list[Frame]] = {}
    for frame in frames:
        lists.setdefault(id(frame.header), []).append(frame)
    return list(lists.values())


def _are_one_kind(one: Frame, other: Frame) -> bool:
    a, b = one.header, other.header
    types = a.image_type[:_IMAGE_TYPE_VALUES] == b.image_type[:_IMAGE_TYPE_VALUES]
    return types and a.kernel == b.kernel and are_parallel(one, other)


def _phases(frames: list[Frame]) -> tuple[str, list[list[Frame]]]:
    """The phases of a series that repeats its positions, and what tells them apart; else all frames as one."""
    if not _repeats(frames):
        return "", [frames]
    for keyword in _MOMENTS:
        parts: dict[tuple[str, ...], list[Frame]] = {}
        for frame in frames:
            parts.setdefault(texts(frame.values.get(keyword, b"")), []).append(frame)
        whole = [part for part in parts.values() if len(part) >= MIN_SLICES and not _repeats(part)]
        if len(parts) > 1 and len(whole) == len(parts):
            return keyword, whole
    return "", [frames]


def _repeats(frames: list[Frame]) -> bool:
    """True where two frames lie at one position."""
    header = frames[0].header
    if header.directions is None:
        return False
    x, y, z = header.normal.tolist()
    along = sorted(p[0] * x + p[1] * y + p[2] * z for f in frames if (p := f.position_mm) is not None)
    return any(b - a < SAME_POSITION_MM for a, b in pairwise(along))
