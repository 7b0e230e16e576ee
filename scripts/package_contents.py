"""Lists what wheel and sdist hold, and refuses what does not belong there: python scripts/package_contents.py dist."""

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = re.compile(
    r"(^|/)(benchmarks/results|docs/pictures|docs/results|node_modules|runs|store|dist|build|site|shared|secrets"
    r"|__pycache__|\.(git|venv|hypothesis|\w+_cache))/"
)
"""What was measured, pictures, what is built, and what a user's work leaves behind."""
DATA = re.compile(
    r"\.(dcm|nii|nii\.gz|nrrd|nhdr|mha|mhd|raw|npy|npz|safetensors|pth?|pt2|onnx|sqlite|csv|xlsx|parquet|zip|tar|gz|tgz|png"
    r"|jpe?g|pyc|pem|key)$",
    re.IGNORECASE,
)
"""Scans, weights, tables, archives, pictures and keys."""
LARGEST_KB = 100
LARGE = {"src/hilum/serving/viewer/niivue.umd.js"}
"""Files that may be larger: the viewer's pages carry it, and ask no other host."""


def files_of_wheel(wheel: Path) -> dict[str, int]:
    """Size of each file of a wheel by its path in the repository; those of its metadata keep their own."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {one.filename: one.file_size for one in archive.infolist() if not one.is_dir()}
    return {f"src/{name}" if name.startswith("hilum/") else name: size for name, size in sizes.items()}


def files_of_sdist(sdist: Path) -> dict[str, int]:
    """Size of each file of an sdist by its path in the repository."""
    with tarfile.open(sdist) as archive:
        return {one.name.partition("/")[2]: one.size for one in archive.getmembers() if not one.isdir()}


def files_of_package(*, tracked: bool) -> set[str]:
    """The files of ``src/hilum`` that git tracks; else also those that it does not ignore."""
    others = () if tracked else ("--others", "--exclude-standard")
    command = ["git", "ls-files", "--cached", *others, "src/hilum"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def forbidden(files: dict[str, int]) -> list[str]:
    """A sentence for each file that belongs into no package."""
    found = [f"{name} does not belong there" for name in sorted(files) if FOLDERS.search(name) or DATA.search(name)]
    large = [name for name, size in sorted(files.items()) if size > LARGEST_KB * 1000 and name not in LARGE]
    return found + [f"{name} is larger than {LARGEST_KB} kB" for name in large]


def problems(wheel: Path, sdist: Path, *, tracked: bool) -> list[str]:
    """What is wrong with the files of a wheel and an sdist, as sentences."""
    in_wheel, in_sdist, package = files_of_wheel(wheel), files_of_sdist(sdist), files_of_package(tracked=tracked)
    metadata = {name for name in in_wheel if re.match(r"hilum-[^/]+\.dist-info/", name)}
    found = [f"wheel: {one}" for one in forbidden(in_wheel)] + [f"sdist: {one}" for one in forbidden(in_sdist)]
    found += [f"wheel: {name} is missing" for name in sorted(package - set(in_wheel))]
    found += [f"wheel: {name} is no file of the package" for name in sorted(set(in_wheel) - metadata - package)]
    found += [f"sdist: {name} is missing" for name in sorted(package - set(in_sdist))]
    return found


def main() -> int:
    """Print sizes and numbers of files; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with one wheel and one sdist")
    folder = parser.parse_args().folder
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    for path, files in ((wheel, files_of_wheel(wheel)), (sdist, files_of_sdist(sdist))):
        sys.stdout.write(
            f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {len(files)} files, of which the largest are\n"
        )
        for name, size in sorted(files.items(), key=lambda one: -one[1])[:5]:
            sys.stdout.write(f"    {size / 1000:8.1f} kB  {name}\n")
    found = problems(wheel, sdist, tracked=True)
    sys.stdout.write("".join(f"{one}\n" for one in found) or "both hold what belongs there, and nothing else\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
