"""Writes masks of the lungs on the grid of each scan, with volumes and verdict in a JSON beside each and in a table."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from hilum.errors import PrepareError
from hilum.files import user_path
from hilum.preparing.lungs.segment import segment_lungs
from hilum.serving.record import WrittenScan
from hilum.serving.scan_files import write_scan_files
from hilum.serving.scan_product import Images, Product
from hilum.serving.scan_table import ScanColumns, ScanTable, first_file
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

_FIELD_ENDING = "-field"
_PARTS = {"right lung": "right", "left lung": "left", "lung fields": "field"}


def lung_verdict(one: WrittenScan) -> str:
    """``good``, ``doubtful`` or ``no-lungs``; ``refused`` where the scan is."""
    if one.lungs is not None:
        return str(one.lungs["verdict"])
    return one.code if one.code == "no-lungs" else "refused"


def lung_codes(one: WrittenScan) -> str:
    """Codes of the findings on a scan and on its lungs, separated by blanks."""
    on_lungs = [finding["code"] for finding in one.lungs["findings"]] if one.lungs else []
    return " ".join(dict.fromkeys([*one.codes.split(), *on_lungs]))


def lung_line(one: WrittenScan) -> str:
    """Volumes, verdict and codes of a scan with lungs, in a line."""
    volumes = ", ".join(f"{what} {_volume(one, part)} ml" for what, part in _PARTS.items())
    return f"{volumes}: {lung_verdict(one)}" + (f" ({lung_codes(one)})" if lung_codes(one) else "")


def _volume(one: WrittenScan, part: str, *, digits: int = 0) -> str:
    """A volume in ml; empty where there are no lungs."""
    return f"{one.lungs[f'{part}_ml']:.{digits}f}" if one.lungs else ""


_COLUMNS: ScanColumns = {
    "name": lambda one: one.name,
    **{f"{part}_ml": partial(_volume, part=part, digits=1) for part in _PARTS.values()},
    "verdict": lung_verdict,
    "file": first_file,
    "findings": lung_codes,
    "reason": lambda one: one.reason,
}


def _labels(volume: Volume, *, field: bool) -> Images:
    """Masks of the lungs, 1 in the right and 2 in the left, and of the lung fields if they are asked for.

    Raises:
        PrepareError: If there are no lungs.
    """
    lungs = segment_lungs(volume)
    if lungs.verdict == "no-lungs":
        raise PrepareError(lungs.findings[0].message, code="no-lungs")
    figures = {name: round(value, 4) for name, value in asdict(lungs.figures).items()}
    described = {
        "verdict": lungs.verdict,
        "right_ml": lungs.right_ml,
        "left_ml": lungs.left_ml,
        "field_ml": np.count_nonzero(lungs.field) * volume.voxel_mm3 / 1000,
        "labels": {"right": 1, "left": 2},
        "figures": figures,
        "findings": [{"code": one.code, "message": one.message} for one in lungs.findings],
    }
    return Images(voxels=(lungs.labels, lungs.field) if field else (lungs.labels,), lungs=described)


def lung_masks(
    scan: str | Path,
    out: str | Path,
    *,
    series: str | None = None,
    field: bool = False,
    table: str | Path | None = None,
    files: FilesConfig | None = None,
    reading: ReadingConfig | None = None,
) -> list[WrittenScan]:
    """Write a mask of the lungs of one scan, or of every scan below a path into a folder, without weights.

    Masks are uint8 on the scan's own grid: 1 in the patient's right lung, 2 in the left. Names, JSON and continuing
    are those of ``convert``.

    Args:
        scan: A folder tree, an archive or a file of DICOM, NIfTI, NRRD or MetaImage.
        out: A file .nii, .nii.gz, .nrrd or .mha for one scan; any other name is a folder. A new one
            with a dot in its name is a text that ends in ``/``.
        series: For one file: the series to take where there are several, as for ``hilum.read``.
        field: Whether to write the lung fields too, with ``-field`` at the end of their names.
        table: CSV file for a row of volumes, verdict and findings for each scan; rows of others stay as long as their
            files are in the folder. None: not written.
        files: Form of the files; None: the defaults.
        reading: Policy for unusual scans; None: the defaults.

    Returns:
        What became of each scan, in the order of the table; of a single one, once.

    Raises:
        HilumError: If no scan has lungs, a file of another program would be overwritten, or a file cannot be
            written.
    """
    endings = ("", _FIELD_ENDING) if field else ("",)
    product = Product(verb="lungs", flag="--out", make=partial(_labels, field=field), endings=endings)
    listed = ScanTable(columns=_COLUMNS, path=None if table is None else user_path(table))
    return write_scan_files(scan, out, product, listed, series=series, files=files, reading=reading)
