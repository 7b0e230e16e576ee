"""What a destination does: it takes files, and says of each what became of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from hilum.errors import HilumError


class UnreachableError(HilumError):
    """The other side is not there, or does not talk to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStatus:
    """What became of an object.

    Attributes:
        reason: Why it is not stored; empty: it is.
        is_final: Whether no later try can help.
    """

    reason: str = ""
    is_final: bool = False


@runtime_checkable
class Destination(Protocol):
    """Sends objects."""

    def send(self, files: Sequence[Path], study_uid: str) -> Iterator[SendStatus]:
        """Send files one after the other, and yield an answer for each.

        Args:
            files: The files.
            study_uid: StudyInstanceUID of all of them.

        Raises:
            UnreachableError: If the other side is away; for the files that have no answer yet.
        """


SUCCESS, DUPLICATE, NOT_SUPPORTED = 0x0000, 0x0111, 0x0122


def status_of(status: int) -> SendStatus:
    """What a status of the storage service, or a FailureReason, means (PS3.4 B.2.3, PS3.7 C).

    Warnings mean that the object is stored, and so does that it was there before.
    """
    if status in (SUCCESS, DUPLICATE) or 0xB000 <= status <= 0xBFFF:
        return SendStatus()
    return SendStatus(reason=f"refused with status {status:04X}", is_final=status == NOT_SUPPORTED)
