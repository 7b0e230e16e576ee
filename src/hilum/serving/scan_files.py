"""Writes files of one scan, or of each scan of a tree into a folder, and the table of what became of each."""

import os
import re
from pathlib import Path

from hilum.errors import ConfigError, require
from hilum.files import check_place, user_path
from hilum.imagefile import WRITTEN_SUFFIXES
from hilum.reading.dicom.dicomdir import is_dicomdir
from hilum.serving.one_scan import write_scan
from hilum.serving.record import WrittenScan
from hilum.serving.scan_product import Product
from hilum.serving.scan_table import ScanTable, check_scan_table, check_usable, write_scan_table
from hilum.serving.scan_tree import write_scans
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig


def write_scan_files(
    scan: str | Path,
    out: str | Path,
    product: Product,
    table: ScanTable,
    *,
    series: str | None,
    files: FilesConfig | None,
    reading: ReadingConfig | None,
) -> list[WrittenScan]:
    """Write the files of one scan, or of every scan below a path into a folder, by the name of the output.

    Args:
        scan: A folder tree, an archive or a file.
        out: The file or folder.
        product: What is written.
        table: The verb's table; rows of other scans stay in it as long as their files are in the folder.
        series: The series to take where there are several; for one file only.
        files: Form of the files; None: the defaults.
        reading: Policy for unusual scans; None: the defaults.

    Returns:
        What became of each scan, in the order of the table; of a single one, once.

    Raises:
        HilumError: If nothing can be written, or a file of another program would be overwritten.
    """
    is_folder = _is_folder(out, product.flag)
    scan, out = user_path(scan), user_path(out)
    files, reading = files or FilesConfig(), reading or ReadingConfig()
    _check_apart(scan, out, product.flag)
    path = out / table.name if table.path is None and table.name and is_folder else table.path
    if table.path is not None:
        check_place(table.path, "a table", "--table")
    if path is not None:
        check_scan_table(path, table.columns)
    if is_folder:
        require(series is None, "series", f"left out for a folder, as {out} is: all series go into it", series)
        found = write_scans(scan, out, product, files=files, reading=reading)
    else:
        found = [write_scan(scan, out, product, series=series, files=files, reading=reading)]
    if path is not None:
        folder = out if is_folder else out.parent
        write_scan_table(path, found, table.columns, folder=folder, keep_paths=files.keep_paths)
    check_usable(found, f", listed in {path}" if path else "")
    return found


def _is_folder(out: str | Path, flag: str) -> bool:
    """Whether an output is a folder for all scans, by its name, else the file of one.

    Raises:
        ConfigError: If it is another file, or is new and has the suffix of one.
    """
    path = user_path(out)
    if path.is_dir():
        return True
    is_named_folder = str(out).endswith(("/", os.sep))
    if not is_named_folder and path.name.lower().endswith(WRITTEN_SUFFIXES):
        return False
    must = f"a folder or a file named {', '.join(WRITTEN_SUFFIXES[:-1])} or {WRITTEN_SUFFIXES[-1]}"
    require(not os.path.lexists(path), flag, must, f"the file {path}")
    has_suffix = re.fullmatch(r"\.[A-Za-z0-9]{1,6}", path.suffix) is not None
    require(is_named_folder or not has_suffix, flag, must, f"{path}; name a folder with a dot {path.name}/")
    return True


def _check_apart(scan: Path, out: Path, flag: str) -> None:
    """Make sure that the next call would not find the written files among the scans.

    Raises:
        ConfigError: If they would lie in the folder of the scans, or cannot be written.
    """
    folder = scan.parent if scan.is_file() and is_dicomdir(scan) else scan
    inside, around = Path(os.path.realpath(out)), Path(os.path.realpath(folder))
    if folder.is_dir() and around in (inside, *inside.parents):
        msg = f"{flag} must lie outside the folder of the scans, {folder}, got {out}"
        raise ConfigError(msg)
    check_place(out, "files", flag)
