"""Writes the DICOM objects of a result to a folder: none of them unless all could be made, the report last."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from hilum.arrays import ArrayLike
from hilum.errors import ConfigError, ReadError, require
from hilum.files import check_own_folder, user_path, whole_folder
from hilum.predicting.predictor import Prediction, Predictor
from hilum.reading.reader import read_source
from hilum.reading.source import ScanSource
from hilum.serving.dicom_out.capture import capture
from hilum.serving.dicom_out.identity import MANUFACTURER, Uids, derived_uid, source_digest, with_uids
from hilum.serving.dicom_out.parametric_map import parametric_map
from hilum.serving.dicom_out.references import check_headers, references_of
from hilum.serving.dicom_out.report import structured_report
from hilum.serving.dicom_out.segmentation import segmentation
from hilum.serving.scan_result import ScanResult, ask_of_scan
from hilum.settings.explain import ExplainConfig

_LONGEST_NAME = 64
"""Characters of the meaning of a code (DICOM PS3.5, 6.2: LO)."""


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
    point_mm: ArrayLike | None = None,
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
    with quiet_dicom():
        config = ExplainConfig() if maps else None
        found = result_of(predictor, scan, config=config, point_mm=point_mm, series=series, mask=mask)
        made = dicom_objects(found, uids=uids)
        with whole_folder(folder, lambda _: True, last="report.dcm") as new:
            write_objects(made, new)
    files = {name: str(one.SOPInstanceUID) for name, one in made.items()}
    return DicomResult(prediction=found.prediction, files=files)


def result_of(
    predictor: Predictor,
    scan: str | Path,
    *,
    config: ExplainConfig | None,
    point_mm: ArrayLike | None = None,
    series: str = "",
    mask: str | Path | None = None,
) -> ScanResult:
    """Read a DICOM scan, predict it, find its lungs and explain the prediction; arguments are those above.

    Raises:
        ConfigError: If the outputs have no names, or the scan is not DICOM.
        ReadError: If objects cannot refer to its headers.
        HilumError: If the scan cannot be read or prepared.
    """
    path = user_path(scan)
    check_names(predictor.card.classes)
    source = read_source(path, series=series or None, reading=predictor.card.reading, headers=True)
    check_is_dicom(source, path)
    at = user_path(mask) if mask is not None else None
    return ask_of_scan(predictor, source, config=config, point_mm=point_mm, mask=at, path=path)


def check_is_dicom(source: ScanSource, path: Path | None = None) -> None:
    """Check that objects can return to a source.

    Raises:
        ConfigError: If it is not DICOM.
        ReadError: If objects cannot refer to its headers.
    """
    if source.turn is None:
        msg = "DICOM objects must return to a DICOM series, this scan is none: they refer to its slices and patient"
        raise ConfigError(msg, path=path)
    check_headers(source)


def check_names(classes: Sequence[str]) -> None:
    """Raise a ConfigError if an output has no name that a report can say."""
    for name in classes:
        fits = len(name) <= _LONGEST_NAME and name.isprintable() and "\\" not in name
        require(fits, "a class's name in DICOM", f"at most {_LONGEST_NAME} printable characters, no backslash", name)
    if not all(any(letter.isalpha() for letter in name) for name in classes):
        msg = (
            f"the classes of this model must have names to stand in a report, they are called {', '.join(classes)}: "
            "give --names, one for each in this order"
        )
        raise ConfigError(msg)


def write_objects(objects: Mapping[str, Dataset], folder: Path) -> None:
    """Write objects to a folder, each to the file of its name."""
    for name, one in objects.items():
        one.save_as(folder / name, enforce_file_format=True)


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """A context in which pydicom and highdicom say nothing: they quote values, which may be names or UIDs.

    Values that the standard does not allow are not refused: sources hold them.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), disable_value_validation():
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
