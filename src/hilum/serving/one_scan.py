"""Writes the files of one scan, chosen as ``hilum.read`` does, unless an earlier call has written them."""

import os
from pathlib import Path

from hilum.errors import GeometryError, HilumError, PrepareError, ReadError, require
from hilum.files import sweep_new_files
from hilum.imagefile import written_suffix
from hilum.preparing.sources import scan_files
from hilum.reading.images.files import detached_files
from hilum.reading.reader import read
from hilum.serving.record import SourceState, WrittenScan, recorded_name, without_places
from hilum.serving.scan_product import Product, ScanTarget, file_settings, place_name
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig


def write_scan(
    scan: Path, out: Path, product: Product, *, series: str | None, files: FilesConfig, reading: ReadingConfig
) -> WrittenScan:
    """Write the files of one scan, chosen as ``hilum.read`` does, unless an earlier call has done so.

    Args:
        scan: A folder, an archive or a file.
        out: The first of the files; others and the JSON lie beside it.
        product: What is written.
        series: The series to take where there are several.
        files: The level of compression; the rest is for folders.
        reading: Policy for unusual scans.

    Raises:
        ConfigError: If a setting has no effect on one file, or the file has no name before its suffix.
        HilumError: If the scan cannot be read, is refused, or a file would be overwritten or cannot be written.
    """
    for name in ("suffix", "keep_paths", "workers"):
        is_default = getattr(files, name) == getattr(FilesConfig(), name)
        require(is_default, name.replace("_", "-"), f"left out for one file, as {out.name} is", getattr(files, name))
    suffix = written_suffix(out)
    has_level = suffix != ".nii" or files.level == FilesConfig().level
    require(has_level, "level", "left out for a .nii, which is not compressed", files.level)
    require(len(out.name) > len(suffix), product.flag, "the name of a file before its suffix", out)
    settings = file_settings(files, reading, suffix) | {"series": series or ""}
    target = ScanTarget(
        folder=out.parent, name=out.name[: -len(suffix)], suffix=out.name[-len(suffix) :], product=product,
        level=files.level, settings=settings,
    )  # fmt: skip
    target.check_own(scan)
    sweep_new_files(target.folder, target.all_names)
    try:
        detached = detached_files(scan)
        source = SourceState.of(scan_files(scan)[: -len(detached) or None], detached)
        done = target.finished(source)
        if done is not None:
            return done
        origin = (source.state, source.digest())
    except OSError as exc:
        msg = f"cannot be read: {exc.strerror or exc}"
        raise ReadError(msg, path=scan) from exc
    volume = read(scan, series=series, reading=reading)
    name = volume.tags.series or place_name("image", os.path.realpath(scan))
    before = recorded_name(target.record)
    if before and before != name:
        msg = "holds another scan, and would be overwritten; name another file, or remove it"
        raise HilumError(msg, path=out)
    try:
        images = target.write(volume)
    except (PrepareError, GeometryError) as exc:
        exc.path = scan
        raise
    names = [file.name for file in source.files]
    written = WrittenScan(
        name=name,
        verdict="repaired" if any(f.severity == "repaired" for f in volume.findings) else "ok",
        files=target.names,
        shape=volume.shape,
        spacing_mm=volume.spacing_mm,
        findings=without_places(volume.findings, names),
        lungs=images.lungs,
    )
    target.confirm(written, volume, origin)
    return written
