"""Gives the files of an upload names of our own: a client's may be names of patients, and errors quote them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hilum.errors import HilumError, ReadError
from hilum.findings import Finding
from hilum.reading.images.files import image_suffix
from hilum.reading.paths import opened_tree
from hilum.serving.record import without_names
from hilum.settings.run import ReadingConfig


@contextmanager
def neutral_scan(upload: Path, reading: ReadingConfig) -> Iterator[tuple[Path, list[Finding]]]:
    """Unpack an upload, and give its files neutral names while the context lasts.

    DICOM files are numbered. Image files keep their names, for a header may name its voxels' file; errors within the
    context then say ``a file`` instead.

    Args:
        upload: A file or a folder; archives in it are unpacked, within the limits of ``reading``.
        reading: Policy and limits.

    Yields:
        The folder of the files, and findings about those that were left out.

    Raises:
        ReadError: If there is nothing in it, or an archive is refused.
    """
    with opened_tree(upload, reading) as tree:
        names = [tree.where(file) for file in tree.files]
        findings = [_unnamed(one, [*names, one.where]) for one in tree.findings]
        if not tree.files:
            raise ReadError(
                "; ".join(dict.fromkeys(one.message for one in findings)) or "there is no file in it",
                code=findings[0].code if findings else "unreadable-file",
            )
        if any(image_suffix(file) for file in tree.files):
            folder = tree.common_folder(tree.files) if len(tree.files) > 1 else tree.files[0]
            with _without_names(names):
                yield folder, findings
            return
        with tempfile.TemporaryDirectory(prefix="hilum-") as scratch:
            for number, file in enumerate(tree.files, start=1):
                own = Path(scratch) / f"{number:06d}.dcm"
                if tree.unpacked is not None and file.is_relative_to(tree.unpacked):
                    file.rename(own)
                else:
                    own.symlink_to(file.absolute())
            yield Path(scratch), findings


@contextmanager
def _without_names(names: Sequence[str]) -> Iterator[None]:
    """A context whose errors do not quote names of files."""
    try:
        yield
    except HilumError as exc:
        exc.message = without_names(exc.message, [part for name in names for part in (name, *name.split("/"))])
        raise


def _unnamed(finding: Finding, names: Sequence[str]) -> Finding:
    return replace(finding, where="", message=without_names(finding.message, names))
