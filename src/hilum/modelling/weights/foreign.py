"""Recognises files that are not weights, by their first bytes or by the names in an archive, for a clear error."""

import codecs
import zipfile
from pathlib import Path

_STARTS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the weights; fetch them with git lfs pull"),
    (b"<!doctype html", "it is a web page (HTML), not weights; the address led to a page, or wants a login"),
    (b"<html", "it is a web page (HTML), not weights; the address led to a page, or wants a login"),
    (b"<?xml", "it is an XML file, not weights; a server may have answered with an error"),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it first"),
)
_ENOUGH = 1024
"""Bytes that are read to recognise a file."""


def not_weights(file: Path) -> str:
    """What a file is instead of weights, as a clause; empty if it may be weights.

    Raises:
        OSError: If it cannot be read.
    """
    with file.open("rb") as opened:
        start = opened.read(_ENOUGH)
    if not start:
        return "it is empty"
    if start[4:10] == b'\0\0\0\0{"':  # the length of the header, and its beginning
        return "" if file.suffix == ".safetensors" else "it is a safetensors file; name it .safetensors"
    if start[:4] == b"PK\x03\x04":
        return _archive(file) or ("it is a file of torch.save; name it .pth" if file.suffix == ".safetensors" else "")
    if start[257:262] == b"ustar":
        return "it is a tar archive; unpack it first"
    plain = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = next((what for begins, what in _STARTS if plain.startswith(begins)), "")
    return found or ("it is a text file, not weights" if _is_text(start) else "")


def _archive(file: Path) -> str:
    """What a zip archive is if ``torch.save`` did not write it; PyTorch's own files are zip archives too."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "it is damaged or cut off; fetch it again"
    give = "give the state dict of its network instead, as torch.save or safetensors write it"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return f"it is a TorchScript archive, which holds code; {give}"
    if "archive_format" in names or "models/model.json" in names:
        return f"it is an exported program (torch.export); {give}"
    return "" if "data.pkl" in names else "it is a zip archive that torch.save did not write"


def _is_text(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut off
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
