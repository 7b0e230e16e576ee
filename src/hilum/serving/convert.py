"""Converts scans to NIfTI, NRRD or MetaImage in HU, with findings and tags in a JSON beside each, and a table."""

from pathlib import Path

from hilum.serving.record import WrittenScan
from hilum.serving.scan_files import write_scan_files
from hilum.serving.scan_product import Images, Product
from hilum.serving.scan_table import ScanColumns, ScanTable, first_file
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

CONVERT_TABLE = "convert.csv"
"""Name of the table in the folder of converted scans."""

_COLUMNS: ScanColumns = {
    "name": lambda one: one.name,
    "verdict": lambda one: one.verdict,
    "file": first_file,
    "shape": lambda one: "x".join(map(str, one.shape)) if any(one.shape) else "",
    "spacing_mm": lambda one: " ".join(f"{s:.6g}" for s in one.spacing_mm or ()),
    "findings": lambda one: one.codes,
    "reason": lambda one: one.reason,
}


def _hu(volume: Volume) -> Images:
    """The HU of a scan."""
    return Images(voxels=(volume.voxels_hu,))


_PRODUCT = Product(verb="convert", flag="OUT", make=_hu)
_TABLE = ScanTable(columns=_COLUMNS, name=CONVERT_TABLE)


def convert(
    scan: str | Path,
    out: str | Path,
    *,
    series: str | None = None,
    files: FilesConfig | None = None,
    reading: ReadingConfig | None = None,
) -> list[WrittenScan]:
    """Convert one scan to a file, or every scan below a path to files in a folder, with a table of what became of each.

    Beside each file lies a JSON with its findings and technical tags; neither names, ids nor dates are written. What
    an earlier call has converted, from the same files with the same settings, is not converted again.

    Args:
        scan: A folder tree, an archive or a file of DICOM, NIfTI, NRRD or MetaImage.
        out: A file .nii, .nii.gz, .nrrd or .mha for one scan; any other name is a folder. A new one
            with a dot in its name is a text that ends in ``/``.
        series: For one file: the series to take where there are several, as for ``hilum.read``.
        files: Form of the files; None: the defaults.
        reading: Policy for unusual scans; None: the defaults.

    Returns:
        What became of each scan, in the order of the table; of a single one, once.

    Raises:
        HilumError: If no scan can be converted, a file of another program would be overwritten, or a file cannot be
            written.
    """
    return write_scan_files(scan, out, _PRODUCT, _TABLE, series=series, files=files, reading=reading)
