"""Gives the files of an upload names of our own: a client's may be names of patients, and errors quote them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hilum.errors import HilumError, ReadError
from hilum.findings import Finding
from hilum.reading.dicom.frames import is_dicom
from hilum.reading.images.files import image_suffix
from hilum.reading.paths import opened_tree
from hilum.serving.record import without_names, without_places
from hilum.settings.run import ReadingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NeutralScan:
    """The files of an upload under names of our own.

    Attributes:
        path: The file, or the folder of the files.
        findings: Findings about files that were left out.
        names: The client's names that files still have: those of images.
    """

    path: Path
    findings: tuple[Finding, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)

    def cleaned(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """Findings that do not quote the client's names."""
        return without_places(findings, self.names) if self.names else tuple(findings)


@contextmanager
def neutral_scan(upload: Path, reading: ReadingConfig) -> Iterator[NeutralScan]:
    """Unpack an upload, and give its files neutral names while the context lasts.

    DICOM files are numbered. Image files keep their names, for a header may name its voxels' file; errors within the
    context then say ``a file`` instead.

    Args:
        upload: A file or a folder; archives in it are unpacked, within the limits of ``reading``.
        reading: Policy and limits.

    Raises:
        ReadError: If there is nothing in it, or an archive is refused.
    """
    with opened_tree(upload, reading) as tree:
        names = [tree.where(file) for file in tree.files]
        findings = without_places(tree.findings, [*names, *(one.where for one in tree.findings)])
        if not tree.files:
            words = "; ".join(dict.fromkeys(one.message for one in findings)) or "there is no file in it"
            raise ReadError(words, code=findings[0].code if findings else "unreadable-file")
        if any(image_suffix(file) for file in tree.files):
            path = tree.common_folder(tree.files) if len(tree.files) > 1 else tree.files[0]
            with _errors_without(names):
                yield NeutralScan(path=path, findings=findings, names=tuple(names))
            return
        if tree.files == (upload,) and not is_dicom(upload):
            msg = "the body is no zip, tar or DICOM file; images are sent as a form, or in an archive"
            raise ReadError(msg, code="unreadable-file")
        with tempfile.TemporaryDirectory(prefix="hilum-") as scratch:
            numbered = [Path(scratch) / f"{number:06d}.dcm" for number in range(1, len(tree.files) + 1)]
            for file, own in zip(tree.files, numbered, strict=True):
                if tree.unpacked is not None and file.is_relative_to(tree.unpacked):
                    file.rename(own)
                else:
                    own.symlink_to(file.absolute())
            with _errors_without([own.name for own in numbered]):  # which no user knows
                yield NeutralScan(path=Path(scratch), findings=findings)


@contextmanager
def _errors_without(names: Sequence[str]) -> Iterator[None]:
    """A context whose errors say ``a file`` in place of names."""
    try:
        yield
    except HilumError as exc:
        exc.message = without_names(exc.message, names)
        raise
