"""Lists the files below a path that may hold scans, in a fixed order: of a folder, an archive or a CD."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from hilum.errors import ReadError
from hilum.findings import STANDARD, Finding, printable
from hilum.reading.archives.unpack import has_archive_name, is_archive, shown_name, unpack
from hilum.reading.dicom.dicomdir import is_dicomdir, lost_files
from hilum.settings.run import ReadingConfig

_Note: TypeAlias = Callable[[Path, str, str], None]
"""Called for each file that is left out: path, code of the finding, sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files below a path, archives unpacked, and their names in reports.

    Attributes:
        files: Regular files on disk, in a fixed order; none is hidden or an archive.
        findings: Findings on files and folders that were left out.
        root: The folder that names are relative to.
        incomplete: Folders below which a DICOMDIR names files that are not there.
        unpacked: The temporary folder with one folder for each archive; None without archives.
        archives: The name of each archive, by the number that is its folder's name.
    """

    files: tuple[Path, ...]
    findings: tuple[Finding, ...]
    root: Path
    incomplete: tuple[Path, ...] = ()
    unpacked: Path | None = None
    archives: tuple[str, ...] = ()

    def where(self, file: Path) -> str:
        """A file's or folder's path relative to what was opened; in an archive, after the archive's name.

        ``exam.zip/IM/0001.dcm``, ``.`` for the folder itself. Never an absolute path, nor a temporary one.
        """
        if self.unpacked is not None and file.is_relative_to(self.unpacked):
            parts = file.relative_to(self.unpacked).parts
            return printable("/".join([self.archives[int(parts[0])], *parts[1:]])) if parts else "."
        return _name(file, self.root)

    def place(self, file: Path) -> str:
        """The absolute path of a file or folder, links resolved; in an archive, after the archive's path."""
        if self.unpacked is None or not file.is_relative_to(self.unpacked):
            return os.path.realpath(file)
        number, *member = file.relative_to(self.unpacked).parts or ("",)
        archive = self.archives[int(number)] if number else ""  # none where it lies around several archives
        return "/".join([os.path.realpath(self.root / archive), *member])

    def common_folder(self, files: Iterable[Path]) -> Path:
        """The deepest folder around some files; the root if only some of them are in archives."""
        folders = {file.parent for file in files}
        are_unpacked = {self.unpacked is not None and folder.is_relative_to(self.unpacked) for folder in folders}
        return Path(os.path.commonpath(folders)) if len(are_unpacked) == 1 else self.root


def _name(file: Path, root: Path) -> str:
    return printable(file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name)


@contextmanager
def opened_tree(path: Path, reading: ReadingConfig) -> Iterator[Tree]:
    """The files below a path while the context lasts; archives are unpacked into a temporary folder until then.

    Args:
        path: A folder, one file, a DICOMDIR, which stands for the folder it lies in, or a zip or tar; zips and tars
            within a folder are opened too.
        reading: Policy and the largest archive.

    Raises:
        ReadError: If there is nothing at the path, or the temporary folder is full.
    """
    path = _meant(Path(path))
    is_folder = _is_folder(path)
    with ExitStack() as until_read:
        opening = _Opening(root=path if is_folder else path.parent, reading=reading, until_read=until_read)
        if is_folder:
            opening.take_folder(path)
        elif is_archive(path):
            opening.take_archive(path)
        else:
            opening.files.append(path)
        yield opening.tree()


def source_files(path: Path, left_out: list[Finding] | None = None) -> list[Path]:
    """The file itself, or the regular files below a folder without hidden ones; archives are files here.

    Args:
        path: A folder, a file, or a DICOMDIR, which stands for the folder it lies in.
        left_out: Takes a finding for each folder that cannot be listed and each link that leads to nothing.

    Raises:
        ReadError: If something is left out, and there is no list to say so.
    """
    path = _meant(path)
    if path.is_file():
        return [path]
    found: list[Finding] = []
    files = _walk(path, lambda file, code, why: found.append(STANDARD.find(code, why, _name(file, path))))
    if left_out is None and found:
        raise ReadError(str(found[0]), path=path)
    if left_out is not None:
        left_out += found
    return files


def _meant(path: Path) -> Path:
    """The folder of a DICOMDIR; any other path as it is."""
    try:
        return path.parent if path.is_file() and is_dicomdir(path) else path
    except (OSError, ValueError):
        return path


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder and not a file.

    Raises:
        ReadError: If it is neither.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
        msg = "no file or folder"
        raise ReadError(msg, path=path) from exc
    except OSError as exc:
        msg = f"cannot be read: {exc.strerror or exc}"
        raise ReadError(msg, path=path) from exc
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:
        msg = "must be a file or a folder, is a pipe or a device"
        raise ReadError(msg, path=path)
    return kind == stat.S_IFDIR


def _walk(folder: Path, note: _Note, *, follow: bool = True) -> list[Path]:
    """The regular files below a folder, in order of their names: a folder's files before its folders.

    Links to folders are followed, after all else, but to none that is walked anyway. A link to a folder that holds this
    one leads back here, and is not followed either.

    Args:
        folder: Where to begin.
        note: Called for each folder that cannot be listed and each link that leads to nothing.
        follow: Whether links are followed; else they are noted.
    """
    files: list[Path] = []
    known = {_identity(one) for one in folder.resolve().parents}
    waiting, links = [os.fspath(folder)], list[str]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        identity = _identity(here)
        if identity is not None and identity in known:
            continue
        try:
            with os.scandir(here) as entries:
                visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as exc:
            note(Path(here), "unreadable-file", f"the folder cannot be listed: {exc.strerror or 'a damaged disk'}")
            continue
        known.add(identity)
        folders = []
        for entry in visible:
            if entry.is_symlink() and not follow:
                note(Path(entry.path), "unsafe-archive", "a link in an archive is not followed")
            elif entry.is_symlink():
                mode = _mode_of_target(entry, note)
                files += [Path(entry.path)] if stat.S_ISREG(mode) else []
                links += [entry.path] if stat.S_ISDIR(mode) else []
            elif entry.is_dir():
                folders.append(entry.path)
            elif entry.is_file():  # a pipe would be waited for, for ever
                files.append(Path(entry.path))
        waiting += reversed(folders)
    return files


def _identity(folder: str | Path) -> tuple[int, int] | None:
    """Device and inode of a folder, the same by whatever path it is reached; None where they cannot be read."""
    try:
        about = os.stat(folder)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


def _mode_of_target(entry: "os.DirEntry[str]", note: _Note) -> int:
    """The mode of what a link leads to; 0, and a note, where it cannot be followed."""
    try:
        return entry.stat().st_mode
    except FileNotFoundError:
        note(Path(entry.path), "missing-file", "a link that leads to nothing")
    except OSError as exc:
        why = f"a link that cannot be followed: {exc.strerror or 'a damaged disk'}"
        note(Path(entry.path), "missing-file", why)
    return 0


@dataclass(slots=True, kw_only=True)
class _Opening:
    """Collects the files and findings of a ``Tree``.

    Attributes:
        until_read: Closes temporary folders when the files are no longer needed.
    """

    root: Path
    reading: ReadingConfig
    until_read: ExitStack
    files: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    incomplete: list[Path] = field(default_factory=list)
    unpacked: Path | None = None
    archives: list[str] = field(default_factory=list)

    def tree(self) -> Tree:
        return Tree(
            files=tuple(self.files),
            findings=tuple(self.findings),
            root=self.root,
            incomplete=tuple(self.incomplete),
            unpacked=self.unpacked,
            archives=tuple(self.archives),
        )

    def take_folder(self, folder: Path) -> None:
        """Add all files below a folder; files with an archive suffix are unpacked."""
        files = _walk(folder, lambda file, code, why: self._find(code, why, _name(file, self.root)))
        for file in files:
            if has_archive_name(file.name) and is_archive(file):
                self.take_archive(file)
            else:
                self.files.append(file)
        self._note_lost_files(files)

    def take_archive(self, archive: Path) -> None:
        """Unpack an archive, and add its files."""
        label = _name(archive, self.root)
        folder = self._scratch() / str(len(self.archives))
        self.archives.append(label)
        for trouble in unpack(archive, folder, max_bytes=self.reading.max_bytes):
            member = f"/{shown_name(trouble.path)}" if trouble.path else ""
            self._find(trouble.code or "unreadable-file", trouble.message, f"{label}{member}")

        def note(path: Path, code: str, why: str) -> None:
            self._find(code, why, f"{label}/{path.relative_to(folder).as_posix()}")

        files = _walk(folder, note, follow=False)
        self.files += files
        self._note_lost_files(files)

    def _note_lost_files(self, files: list[Path]) -> None:
        """A finding for each DICOMDIR among files that names others which are not there."""
        for path in (file for file in files if file.name.upper() == "DICOMDIR"):
            if lost := lost_files(path, files):
                message = f"files that the DICOMDIR names are not there: {len(lost)}"
                self._find("missing-file", message, shown_name(lost[0]))
                self.incomplete.append(path.parent)

    def _scratch(self) -> Path:
        """The temporary folder, which only this user can look into, made when it is first needed."""
        if self.unpacked is None:
            try:
                scratch = tempfile.TemporaryDirectory(prefix="hilum-")
            except OSError as exc:
                msg = f"a temporary folder for archives cannot be made: {exc.strerror or exc}"
                raise ReadError(msg, hint="TMPDIR names another") from exc
            self.unpacked = Path(self.until_read.enter_context(scratch))
        return self.unpacked

    def _find(self, code: str, message: str, where: str) -> None:
        self.findings.append(self.reading.rules.find(code, message, where))
