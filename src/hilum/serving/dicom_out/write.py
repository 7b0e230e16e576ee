"""Writes the DICOM objects of a result to a folder: none of them unless all could be made, the report last."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from hilum.errors import ConfigError, ReadError
from hilum.files import check_own_folder, user_path, whole_folder
from hilum.predicting.predictor import Prediction, Predictor
from hilum.serving.dicom_out.capture import capture
from hilum.serving.dicom_out.identity import MANUFACTURER, Uids, derived_uid, source_digest, with_uids
from hilum.serving.dicom_out.parametric_map import parametric_map
from hilum.serving.dicom_out.references import references_of
from hilum.serving.dicom_out.report import structured_report
from hilum.serving.dicom_out.result import ScanResult, result_of
from hilum.serving.dicom_out.segmentation import segmentation


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomResult:
    """The objects of a result.

    Attributes:
        prediction: The prediction.
        files: Name of each file, in the folder, and SOPInstanceUID of its object.
    """

    prediction: Prediction
    files: dict[str, str]


def predict_to_dicom(
    model: Predictor | str | Path,
    scan: str | Path,
    out: str | Path,
    *,
    names: Sequence[str] = (),
    maps: bool = True,
    uids: Uids = "derived",
    point_mm: Any = None,
    series: str = "",
    mask: str | Path | None = None,
) -> DicomResult:
    """Predict a DICOM scan, and write report, segmentation, maps and page as DICOM objects of its study.

    Args:
        model: A model folder, the run folder around it, or a predictor.
        scan: A path that ``read`` accepts; its source must be DICOM.
        out: The folder to write: new, empty, or of earlier objects, which are replaced.
        names: Names of the model's outputs in the objects; empty: the model's own.
        maps: Whether to make maps by occlusion.
        uids: ``derived``: the same result is the same instance; ``new``: always another.
        point_mm: LPS mm (x, y, z), for models of region ``point``.
        series: The series to read, if the path holds several.
        mask: File of a lung mask; None: the lungs are segmented.

    Raises:
        ConfigError: If the folder or a setting is not usable, or the source is not DICOM.
        HilumError: If the scan cannot be read or prepared, or its headers do not allow the objects.
    """
    folder = user_path(out).absolute()
    check_dicom_folder(folder, user_path(scan))
    predictor = (model if isinstance(model, Predictor) else Predictor(model)).named(names)
    with _quiet(), disable_value_validation():
        found = result_of(predictor, scan, maps=maps, point_mm=point_mm, series=series, mask=mask)
        made = dicom_objects(found, uids=uids)
        with whole_folder(folder, lambda _: True, last="report.dcm") as new:
            for name, one in made.items():
                one.save_as(new / name, enforce_file_format=True)
    files = {name: str(one.SOPInstanceUID) for name, one in made.items()}
    return DicomResult(prediction=found.prediction, files=files)


@contextmanager
def _quiet() -> Iterator[None]:
    """A context in which pydicom and highdicom say nothing: they quote values, which may be names or UIDs."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def dicom_objects(result: ScanResult, *, uids: Uids = "derived") -> dict[str, Dataset]:
    """The objects of a result by the name of their file.

    Raises:
        ReadError: If the source's headers do not allow an object.
    """
    source = source_digest(result.source)
    references = references_of(result.source, derived_uid("frame of reference", source))
    makers: dict[str, Callable[[], Dataset | None]] = {
        "segmentation.dcm": lambda: segmentation(result, references),
        "page.dcm": lambda: capture(result, references),
    }
    for number, one in enumerate(result.heat_maps, start=1):
        suffix = f"-{number}" if len(result.heat_maps) > 1 else ""
        makers[f"map{suffix}.dcm"] = partial(parametric_map, result, references, one)
    made: dict[str, Dataset] = {}
    makers["report.dcm"] = lambda: structured_report(result, references, list(made.values()))  # of all the others
    for name, make in makers.items():
        try:
            found = make()
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as exc:
            # The text of the cause may quote the patient's values.
            msg = f"the source's headers do not allow {name}: highdicom raised {type(exc).__name__}"
            raise ReadError(msg, hint="dciodvfy names what is wrong with them") from exc
        if found is not None:
            made[name] = with_uids(found, source, uids)
    return made


def check_dicom_folder(out: Path, scan: Path) -> None:
    """Check, before anything is computed, that a folder is new, empty, or holds earlier objects alone.

    Raises:
        ConfigError: If it is a file, cannot be written, holds other files, or lies in the scan's folder, where the
            objects would be read as part of the scan.
    """
    check_own_folder(out, _is_own, "earlier objects", flag="--dicom")
    if scan.is_dir() and out.resolve().is_relative_to(scan.resolve()):
        msg = f"--dicom must be a folder outside the scan, which would be read with it, {out} lies in {scan}"
        raise ConfigError(msg)


def _is_own(file: Path) -> bool:
    """Whether a file is an object that Hilum wrote."""
    if not file.is_file() or file.is_symlink() or file.suffix != ".dcm":
        return False
    try:
        return bool(pydicom.dcmread(file, specific_tags=["Manufacturer"]).get("Manufacturer") == MANUFACTURER)
    except (OSError, InvalidDicomError):
        return False
