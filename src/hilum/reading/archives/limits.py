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
    """Counts the unpacked bytes and members of an archive, whatever its headers claim, and stops at the limits.

    Attributes:
        max_bytes: Limit of the unpacked bytes.
        num_bytes: Bytes unpacked so far.
        num_members: Members unpacked so far.
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
    """The error of an archive that could do harm; ``path`` is the member at fault, if there is one."""
    return ReadError(message, code="unsafe-archive", path=member)


def damaged(message: str) -> ReadError:
    """The error of an archive that breaks the rules of its format."""
    return ReadError(message, code="unreadable-file")


def check_fold(num_bytes: int, packed: int, member: str | None = None) -> None:
    """Refuse an archive or member that is compressed more than scans are."""
    if num_bytes > _FREE_BYTES and num_bytes > _MAX_FOLD * packed:
        msg = f"it must be compressed at most {_MAX_FOLD}-fold, is more"
        raise unsafe(msg, member)
