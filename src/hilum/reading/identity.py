"""Keyed hashes for identifiers: the same patient is recognised within one site and nowhere else."""

import hashlib
import hmac
import os
import secrets
from functools import cache
from pathlib import Path

from hilum.errors import ReadError

_PLACEHOLDERS = {
    "", "0", "00", "000", "0000", "1", "-", "?", "na", "n/a", "nan", "none", "null", "unknown", "unk", "test", "xxx",
    "anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "de-identified", "removed", "patient",
    "no id", "noid", "no_id", "hidden", "blank",
}  # fmt: skip


def is_placeholder(identifier: str) -> bool:
    """True for blank ids and words like ANONYMOUS, which name nobody and would merge everybody.

    Example:
        >>> is_placeholder(" Anonymous "), is_placeholder("LIDC-IDRI-0314")
        (True, False)
    """
    text = identifier.strip().lower().strip("*_^. ")
    return text in _PLACEHOLDERS


def hashed(kind: str, identifier: str) -> str:
    """HMAC-SHA256 of an identifier under the site's key, as 16 hexadecimal digits; empty stays empty.

    Args:
        kind: What is identified, such as ``patient``: equal texts of two kinds get different hashes.
        identifier: The text in the file or table.
    """
    text = identifier.strip()
    return hmac.new(_key(os.environ.get("HILUM_KEY", "")), f"{kind}:{text}".encode(), hashlib.sha256).hexdigest()[:16] if text else ""


@cache
def _key(from_environment: str) -> bytes:
    """The key of HILUM_KEY, else of the file that only its owner can read, which is made on first use."""
    if from_environment:
        return from_environment.encode()
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hilum"
    path = folder / "key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(32))
            try:
                os.link(new, path)  # fails where another process was first, whose key then holds
            except FileExistsError:
                pass
            finally:
                new.unlink()
        return path.read_text().strip().encode()
    except OSError as exc:
        msg = f"the key for hashing identifiers cannot be kept in {folder}: {exc.strerror}; set HILUM_KEY"
        raise ReadError(msg) from exc
