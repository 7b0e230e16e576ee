"""The files below a path, in a fixed order."""

import os
from pathlib import Path


def source_files(path: Path) -> list[Path]:
    """The file itself, or the files below a folder without hidden ones."""
    if path.is_file():
        return [path]
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    return files
