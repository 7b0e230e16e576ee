"""Keyed hashes for identifiers: the same patient is recognised within one site and nowhere else."""

import contextlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hilum.errors import ReadError

_WORDS = """
anon anonym anonymous anonymised anonymized anonymous^patient deidentified de-identified redacted removed blank hidden
unknown unk unspecified undefined missing none null nil nan na n/a n.a. not_available patient patient_id patientid id
test noid no_id no_name noname unnamed x xx xxx - -- ? . 0 00 000 0000
"""

PLACEHOLDERS = frozenset(_WORDS.split())
"""Patient ids, in lower case, that identify no patient."""


def is_placeholder(identifier: str) -> bool:
    """True for blank ids and words like ANONYMOUS, which many patients share.

    Example:
        >>> is_placeholder(" Anonymous "), is_placeholder("LIDC-IDRI-0314")
        (True, False)
    """
    text = identifier.strip().lower()
    return not text or text in PLACEHOLDERS


def hashed(kind: str, identifier: str) -> str:
    """HMAC-SHA256 of an identifier under the site's key, such as ``patient-1f0c...``; empty stays empty.

    A hash stays as it is, so that a table written by Hilum and one with the plain ids agree.

    Args:
        kind: The kind of identifier, such as ``patient``: equal texts of two kinds get different hashes.
        identifier: The text in the file or table.
    """
    return hashed_all(kind, [identifier])[0]


def hashed_all(kind: str, identifiers: Iterable[str]) -> list[str]:
    """``hashed`` of many identifiers of one kind, three times as fast as one call each."""
    done = re.compile(rf"{kind}-[0-9a-f]{{16}}").fullmatch
    hashes = []
    start: hmac.HMAC | None = None
    for text in map(str.strip, identifiers):
        if not text or done(text):
            hashes.append(text)
            continue
        start = start or hmac.new(_key(os.environ.get("HILUM_KEY", "")), f"{kind}:".encode(), "sha256")
        one = start.copy()
        one.update(text.encode())
        hashes.append(f"{kind}-{one.hexdigest()[:16]}")
    return hashes


def key_fingerprint() -> str:
    """A fingerprint of the key, from which the key cannot be computed."""
    return hashed("key", "fingerprint")


def key_origin() -> str:
    """Where the key comes from: ``HILUM_KEY`` or ``file``; empty if it will be made on first use."""
    return "HILUM_KEY" if os.environ.get("HILUM_KEY") else "file" if _key_file().exists() else ""


def _key_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hilum" / "key"


@cache
def _key(from_environment: str) -> bytes:
    """The key of HILUM_KEY, else of the file that only its owner can read, which is made on first use."""
    if from_environment:
        return from_environment.encode()
    path = _key_file()
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # another process was first: its key holds
                os.link(new, path)
            new.unlink()
        key = path.read_text().strip().encode()
    except OSError as exc:
        msg = f"the key for hashing identifiers cannot be kept in {folder}: {exc.strerror}; set HILUM_KEY"
        raise ReadError(msg) from exc
    if not key:
        msg = f"the key file {path} is empty: remove it, or set HILUM_KEY"
        raise ReadError(msg)
    return key
