"""The files below a path, in a fixed order."""

import os
from pathlib import Path


def source_files(path: Path) -> list[Path]:
    """The file itself, or the regular files below a folder without hidden ones."""
    if path.is_file():
        return [path]
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        here = [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
        files += [file for file in here if file.is_file()]  # a pipe would be waited for, for ever
    return files
