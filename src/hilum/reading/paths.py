"""From a path to the files that may hold scans: folders, archives and the DICOMDIR of a CD, in a fixed order."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hilum.config import ReadingConfig
from hilum.errors import ReadError
from hilum.findings import Finding, printable
from hilum.reading.archives import has_archive_name, is_archive, unpack
from hilum.reading.dicomdir import is_dicomdir, read_dicomdir


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files below a path, archives unpacked, and how they are called in reports.

    Attributes:
        files: Regular files on disk, in a fixed order; none is hidden or an archive.
        findings: What was wrong on the way to them.
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


def _name(file: Path, root: Path) -> str:
    return printable(file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name)


@contextmanager
def opened(path: Path, reading: ReadingConfig) -> Iterator[Tree]:
    """The files below a path while the context lasts; archives are unpacked into a temporary folder until then.

    Args:
        path: A folder, one file, a DICOMDIR, or a zip or tar; zips and tars within a folder are opened too.
        reading: Policy and the largest archive.

    Raises:
        ReadError: If there is nothing at the path, or the temporary folder is full.
    """
    path = Path(path)
    kind = _kind(path)
    with ExitStack() as until_read:
        if kind == stat.S_IFDIR:
            opening = _Opening(root=path, reading=reading, until_read=until_read)
            opening.take_folder(path)
        else:
            opening = _Opening(root=path.parent, reading=reading, until_read=until_read)
            opening.take_file(path)
        yield opening.tree()


def source_files(path: Path) -> list[Path]:
    """The file itself, or the regular files below a folder without hidden ones; archives are files here.

    For a DICOMDIR, itself and the files it leads to.
    """
    if path.is_file():
        if not is_dicomdir(path):
            return [path]
        try:
            return [path, *read_dicomdir(path).files]
        except ReadError:
            return [path]
    return _walked(path).files


def _kind(path: Path) -> int:
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
        msg = f"no file or folder {path}"
        raise ReadError(msg) from exc
    except OSError as exc:
        msg = f"{path} cannot be read: {exc.strerror or exc}"
        raise ReadError(msg) from exc
    if kind not in {stat.S_IFREG, stat.S_IFDIR}:
        msg = f"{path} must be a file or a folder, is a pipe or a device"
        raise ReadError(msg)
    return kind


@dataclass(slots=True, kw_only=True)
class _Walked:
    """What lies below a folder.

    Attributes:
        files: Regular files, also by links, in order of their names: a folder's files before its folders.
        unlisted: Folders that cannot be listed, with the reason.
        not_followed: Links to folders, which could lead in circles.
        broken: Links that lead to nothing.
    """

    files: list[Path] = field(default_factory=list)
    unlisted: list[tuple[Path, str]] = field(default_factory=list)
    not_followed: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)


def _walked(folder: Path) -> _Walked:
    walked = _Walked()
    waiting = [os.fspath(folder)]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                seen = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as exc:
            walked.unlisted.append((Path(here), exc.strerror or "a damaged disk"))
            continue
        folders = []
        for entry in seen:
            if entry.is_symlink():
                _follow(entry, walked)
            elif entry.is_dir():
                folders.append(entry.path)
            elif entry.is_file():  # a pipe would be waited for, for ever
                walked.files.append(Path(entry.path))
        waiting += reversed(folders)
    return walked


def _follow(entry: "os.DirEntry[str]", walked: _Walked) -> None:
    try:
        mode = entry.stat().st_mode
    except OSError:
        walked.broken.append(Path(entry.path))
        return
    if stat.S_ISREG(mode):
        walked.files.append(Path(entry.path))
    elif stat.S_ISDIR(mode):
        walked.not_followed.append(Path(entry.path))


@dataclass(slots=True, kw_only=True)
class _Opening:
    """A Tree as it grows.

    Attributes:
        until_read: What is undone when the files are no longer needed.
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

    def take_file(self, path: Path) -> None:
        """A path that is a file: an archive, a DICOMDIR or an image."""
        if is_archive(path):
            self._take_archive(path)
        elif is_dicomdir(path):
            self.files += self._note_dicomdir(path)
        else:
            self.files.append(path)

    def take_folder(self, folder: Path) -> None:
        """All below a folder; archives in it by their names."""
        walked = _walked(folder)
        self._note(walked)
        for file in walked.files:
            if has_archive_name(file.name) and is_archive(file):
                self._take_archive(file)
            else:
                self._take(file)

    def _take(self, file: Path) -> None:
        """A file in a folder; a DICOMDIR tells what else must be there."""
        self.files.append(file)
        if file.name.upper() == "DICOMDIR":
            self._note_dicomdir(file)

    def _note(self, walked: _Walked) -> None:
        for folder, why in walked.unlisted:
            self._find("unreadable-file", f"the folder cannot be listed: {why}", _name(folder, self.root))
        if walked.broken:
            message = f"links that lead to no file: {len(walked.broken)}"
            self._find("missing-file", message, _name(walked.broken[0], self.root))
        if walked.not_followed:
            message = f"links to folders are not followed: {len(walked.not_followed)}"
            self._find("missing-file", message, _name(walked.not_followed[0], self.root))

    def _take_archive(self, archive: Path) -> None:
        label = _name(archive, self.root)
        folder = self._scratch() / str(len(self.archives))
        self.archives.append(label)
        for trouble in unpack(archive, folder, max_bytes=self.reading.max_bytes):
            self._find(trouble.code, trouble.message, f"{label}/{trouble.member}" if trouble.member else label)
        for file in _walked(folder).files:
            self._take(file)

    def _note_dicomdir(self, path: Path) -> tuple[Path, ...]:
        """The files that a DICOMDIR leads to; what is wrong with it is noted, and where files of it are lost."""
        try:
            directory = read_dicomdir(path, max_bytes=self.reading.max_bytes)
        except ReadError as exc:
            self._find("unreadable-file", str(exc), _name(path, self.root))
            return ()
        for trouble in directory.troubles:
            self._find(trouble.code, trouble.message, trouble.member)
            if trouble.code == "missing-file":
                self.incomplete.append(path.parent)
        return directory.files

    def _scratch(self) -> Path:
        """The temporary folder, which only this user can look into, made when it is first needed."""
        if self.unpacked is None:
            try:
                scratch = tempfile.TemporaryDirectory(prefix="hilum-")
            except OSError as exc:
                msg = f"a temporary folder for archives cannot be made: {exc.strerror or exc} (TMPDIR names another)"
                raise ReadError(msg) from exc
            self.unpacked = Path(self.until_read.enter_context(scratch))
        return self.unpacked

    def _find(self, code: str, message: str, where: str) -> None:
        self.findings.append(self.reading.rules.find(code, message, where))
