"""Limits of what an archive may unpack to, and the errors of archives that exceed them."""

from dataclasses import dataclass

from hilum.errors import ReadError

MAX_MEMBERS = 200_000
_MAX_FOLD = 1000
_FREE_BYTES = 1_000_000
"""Bytes up to which the compression may be as high as it likes: an empty slice is some hundred kB of zeros."""

MAX_HEADER = 1 << 20
"""Largest extended header of a tar in bytes; names take some hundred, a Mac's attributes some ten thousand."""

MAX_DICTIONARY = 1 << 28
"""Largest memory of an xz decoder in bytes; ``xz -9`` takes 65 MB, a header can claim 4 GB."""

MAX_DIRECTORY = 1 << 26
"""Largest list of members at the end of a zip, in bytes: 335 for each of the most members that are allowed."""


@dataclass(slots=True, kw_only=True)
class Allowance:
    """Counts what comes out of an archive, whatever its headers claim, and stops it at the limits.

    Attributes:
        max_bytes: Limit of what it unpacks to.
        num_bytes: What it has unpacked to so far.
        num_members: Members so far.
    """

    max_bytes: int
    num_bytes: int = 0
    num_members: int = 0

    def take(self, num_bytes: int, packed: int) -> None:
        """Count bytes that came out of so many packed bytes of the archive."""
        self.num_bytes += num_bytes
        if self.num_bytes > self.max_bytes:
            msg = f"it must unpack to at most {self.max_bytes} bytes (reading.max_gb), unpacks to more"
            raise unsafe(msg)
        check_fold(self.num_bytes, packed)

    def count_member(self) -> None:
        """Count a member."""
        self.num_members += 1
        if self.num_members > MAX_MEMBERS:
            msg = f"it must have at most {MAX_MEMBERS} members, has more"
            raise unsafe(msg)


def unsafe(message: str, member: str | None = None) -> ReadError:
    """An archive does what no archive of scans needs to do; ``path`` is the member that does, where it is one."""
    return ReadError(message, code="unsafe-archive", path=member)


def damaged(message: str) -> ReadError:
    """An archive is not what its format says."""
    return ReadError(message, code="unreadable-file")


def check_fold(num_bytes: int, packed: int, member: str | None = None) -> None:
    """Refuse what unpacks to far more than scans do."""
    if num_bytes > _FREE_BYTES and num_bytes > _MAX_FOLD * packed:
        msg = f"it must be compressed at most {_MAX_FOLD}-fold, is more"
        raise unsafe(msg, member)
