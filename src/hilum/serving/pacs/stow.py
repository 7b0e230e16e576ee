"""Sends objects to a DICOMweb server by STOW-RS."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
import requests
from pydicom.dataset import Dataset

from hilum.serving.pacs.destination import SendStatus, status_of
from hilum.serving.pacs.web_session import reaching, web_client
from hilum.settings.serving import DestinationConfig

_REFUSED = (400, 404, 409, 413, 415)
"""Statuses that are the answer to one object, not of a server that is away."""

_WHOLE = 1 << 31
"""An object is sent in one piece: not every server takes chunks."""


class Stow:
    """A destination that is a DICOMweb server.

    Args:
        config: The destination.

    Raises:
        ConfigError: If its token cannot be read.
    """

    def __init__(self, config: DestinationConfig) -> None:
        self._client = web_client(config, most_bytes=_WHOLE)
        self._client.set_chunk_size(_WHOLE)

    def send(self, files: Sequence[Path], study_uid: str) -> Iterator[SendStatus]:
        """See ``Destination.send``."""
        for file in files:
            made = pydicom.dcmread(file)
            with reaching():
                answer = self._stored(made, study_uid)
            yield answer

    def _stored(self, made: Dataset, study_uid: str) -> SendStatus:
        try:
            said = self._client.store_instances([made], study_instance_uid=study_uid)
        except requests.HTTPError as exc:
            response = exc.response
            if response is None or response.status_code not in _REFUSED:
                raise
            try:
                said = Dataset.from_json(response.json())
            except (ValueError, TypeError, KeyError, AttributeError):
                return SendStatus(reason=f"refused with status {response.status_code}")
            return status_about(
                said, str(made.SOPInstanceUID), SendStatus(reason=f"refused with status {response.status_code}")
            )
        return status_about(said, str(made.SOPInstanceUID), SendStatus())


def status_about(said: Dataset, uid: str, otherwise: SendStatus) -> SendStatus:
    """What a response of STOW-RS says of an instance (PS3.18 10.5.3).

    Args:
        said: The response.
        uid: SOPInstanceUID of the instance.
        otherwise: The answer where the response does not name it.
    """
    for item in _items(said, "ReferencedSOPSequence"):
        if str(item.get("ReferencedSOPInstanceUID", "")) == uid:
            return SendStatus()
    for item in _items(said, "FailedSOPSequence"):
        if str(item.get("ReferencedSOPInstanceUID", uid)) == uid:
            return status_of(int(item.get("FailureReason", 0x0110)))
    return otherwise


def _items(said: Dataset, keyword: str) -> Any:
    return said.get(keyword) or ()
