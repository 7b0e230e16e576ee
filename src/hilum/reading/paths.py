"""From a path to the files that may hold scans: folders, archives and the DICOMDIR of a CD, in a fixed order."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hilum.errors import ReadError
from hilum.findings import STANDARD, Finding, Policy, printable
from hilum.reading.archives.unpack import has_archive_name, is_archive, unpack
from hilum.reading.dicom.dicomdir import is_dicomdir, read_dicomdir
from hilum.settings.run import ReadingConfig


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


def source_files(path: Path, left_out: list[Finding] | None = None) -> list[Path]:
    """The file itself, or the regular files below a folder without hidden ones; archives are files here.

    For a DICOMDIR, itself and the files it leads to.

    Args:
        path: A folder or a file.
        left_out: Takes a finding for each folder that cannot be listed, each link that leads to nothing and all that is
            wrong with a DICOMDIR.

    Raises:
        ReadError: If something is left out, and there is no list to say so.
    """
    found: list[Finding] = []
    if not path.is_file():
        walked = _walked(path)
        files, found = walked.files, walked.findings(path, STANDARD)
    elif is_dicomdir(path):
        try:
            directory = read_dicomdir(path)
            files = [path, *directory.files]
            found = [STANDARD.find(one.code, one.message, one.member) for one in directory.troubles]
        except ReadError as exc:
            files, found = [path], [STANDARD.find("unreadable-file", str(exc), path.name)]
    else:
        files = [path]
    if left_out is None and found:
        msg = f"{path}: {found[0]}"
        raise ReadError(msg)
    if left_out is not None:
        left_out += found
    return files


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
        files: Regular files, also by links, in order of their names: a folder's files before its folders, and what
            links to folders lead to at the end.
        left_out: Folders that cannot be listed and links that lead to nothing: path, code and sentence.
    """

    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str, str]] = field(default_factory=list)

    def findings(self, root: Path, rules: Policy) -> list[Finding]:
        """One for each thing that is left out, named relative to a folder."""
        return [rules.find(code, message, _name(path, root)) for path, code, message in self.left_out]


def _walked(folder: Path, *, follow: bool = True) -> _Walked:
    """All below a folder. Links to folders are followed, after all else, but to none that is walked anyway.

    A link to a folder that holds this one leads back here, and is not followed either.

    Args:
        folder: Where to begin.
        follow: Whether links are followed at all; where not, they are left out.
    """
    walked = _Walked()
    real = folder.resolve()
    known = {key for one in real.parents if (key := _key(one)) is not None}
    waiting, links = [os.fspath(folder)], list[str]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        key = _key(here)
        if key is not None and key in known:
            continue
        try:
            with os.scandir(here) as entries:
                seen = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as exc:
            why = f"the folder cannot be listed: {exc.strerror or 'a damaged disk'}"
            walked.left_out.append((Path(here), "unreadable-file", why))
            continue
        known |= {key} if key is not None else set()
        folders = []
        for entry in seen:
            if entry.is_symlink():
                links += _followed(entry, walked, follow=follow)
            elif entry.is_dir():
                folders.append(entry.path)
            elif entry.is_file():  # a pipe would be waited for, for ever
                walked.files.append(Path(entry.path))
        waiting += reversed(folders)
    return walked


def _key(folder: str | Path) -> tuple[int, int] | None:
    """What tells a folder from all others, by whatever way it is reached; None where that cannot be known."""
    try:
        about = os.stat(folder)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


def _followed(entry: "os.DirEntry[str]", walked: _Walked, *, follow: bool) -> list[str]:
    """The folder that a link leads to, if it is one; a file is noted, and so is what cannot be followed."""
    if not follow:
        walked.left_out.append((Path(entry.path), "unsafe-archive", "a link in an archive is not followed"))
        return []
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        walked.left_out.append((Path(entry.path), "missing-file", "a link that leads to nothing"))
        return []
    except OSError as exc:
        why = f"a link that cannot be followed: {exc.strerror or 'a damaged disk'}"
        walked.left_out.append((Path(entry.path), "missing-file", why))
        return []
    if stat.S_ISREG(mode):
        walked.files.append(Path(entry.path))
    return [entry.path] if stat.S_ISDIR(mode) else []


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
        self.findings += walked.findings(self.root, self.reading.rules)
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

    def _take_archive(self, archive: Path) -> None:
        label = _name(archive, self.root)
        folder = self._scratch() / str(len(self.archives))
        self.archives.append(label)
        for trouble in unpack(archive, folder, max_bytes=self.reading.max_bytes):
            self._find(trouble.code, trouble.message, f"{label}/{trouble.member}" if trouble.member else label)
        walked = _walked(folder, follow=False)
        for path, code, message in walked.left_out:
            self._find(code, message, f"{label}/{path.relative_to(folder).as_posix()}")
        for file in walked.files:
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
