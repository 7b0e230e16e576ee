"""Gives objects their UIDs, from a digest of what they say or new ones, and says what made them."""

import hashlib
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Literal

from pydicom.dataset import Dataset
from pydicom.uid import UID

from hilum.preparing.hu_digest import hu_digest
from hilum.reading.source import ScanSource
from hilum.serving.scan_result import ScanResult

Uids = Literal["derived", "new"]

MANUFACTURER, PRODUCT = "Hilum", "Hilum 3D ResNet classifier"
CODING_SCHEME = "99HILUM"

RESEARCH = "RESEARCH - NOT FOR CLINICAL USE"
"""What every object says of itself."""

_SERIES_NUMBERS = {"report": 9001, "segmentation": 9002, "map": 9003, "page": 9004}

_TO_COME = "2.25.0"
"""UIDs of an object that is not complete."""

_NOT_CONTENT = frozenset(
    [
        "SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationUID", "InstanceCreationDate",
        "InstanceCreationTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime", "ContributionDateTime",
        "DateOfSecondaryCapture", "TimeOfSecondaryCapture",
    ]
)  # fmt: skip
"""The object's own UIDs, and the times at which it was made."""


def source_digest(source: ScanSource) -> str:
    """Digest of a source: the UIDs of its instances and its HU."""
    uids = sorted(str(header.get("SOPInstanceUID", "")) for header in source.headers)
    series = str(source.headers[0].get("SeriesInstanceUID", ""))
    text = "\n".join([series, *uids, hu_digest(source.volume.voxels_hu)])
    return hashlib.sha256(text.encode()).hexdigest()


def derived_uid(*parts: str) -> str:
    """A UID that depends on the parts alone: 2.25 and a UUID of version 8 (PS3.5 B.2, RFC 9562 5.8)."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()[:16]
    number = int.from_bytes(digest, "big") & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
    return f"2.25.{uuid.UUID(int=number).int}"


def equipment(model_digest: str, what: Literal["report", "segmentation", "map", "page"]) -> dict[str, Any]:
    """What every object says of itself, as arguments of highdicom's constructors.

    Args:
        model_digest: Digest of the model; empty: there is none to name.
        what: What it is: report, segmentation, map or page.
    """
    return {
        "series_instance_uid": _TO_COME,
        "series_number": _SERIES_NUMBERS[what],
        "sop_instance_uid": _TO_COME,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": PRODUCT,
        "software_versions": version("hilum"),
        "device_serial_number": model_digest[:16] or None,
        "series_description": f"Hilum {what}: {RESEARCH}",
        "specific_character_set": "ISO_IR 192",
    }


def with_uids(made: Dataset, source: str, uids: Uids) -> Dataset:
    """Give a finished object its UIDs.

    Derived ones come from a digest of the source and of the whole content but its times: the same result is the same
    instance, any other is another.

    Args:
        made: An object of highdicom's.
        source: ``source_digest``.
        uids: ``derived`` or ``new``.
    """
    kind = str(made.SOPClassUID)
    parts = [source, _content(made)] if uids == "derived" else [uuid.uuid4().hex]
    made.SOPInstanceUID = UID(derived_uid("instance", kind, *parts))
    made.SeriesInstanceUID = UID(derived_uid("series", kind, *parts))
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    for item in _items(made):
        if "DimensionOrganizationUID" in item:
            item.DimensionOrganizationUID = UID(derived_uid("dimensions", kind, *parts))
    return made


def tracking_uid(result: ScanResult, what: str) -> str:
    """UID by which a finding or segment of this model in this source is known in later objects."""
    header = result.source.headers[0]
    at = "" if result.point_mm is None else " ".join(f"{mm:.3f}" for mm in result.point_mm)
    return derived_uid("tracking", str(header.SeriesInstanceUID), result.model_digest, at, what)


def _content(made: Dataset) -> str:
    """Digest of all elements but the object's own UIDs and the times at which it was made."""
    digest = hashlib.sha256()
    for item in _items(made):
        for element in item:
            if element.keyword in _NOT_CONTENT or element.VR == "SQ":
                digest.update(f"{element.tag}".encode())
            else:
                value = element.value
                digest.update(f"{element.tag} {element.VR} ".encode())
                digest.update(value if isinstance(value, bytes) else str(value).encode())
            digest.update(b"\n")
    return digest.hexdigest()


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """A dataset and the items of all its sequences, at any depth."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _items(item)
