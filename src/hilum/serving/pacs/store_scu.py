"""Sends objects to a DICOM node by C-STORE."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context

from hilum.serving.pacs.destination import SendStatus, UnreachableError, status_of
from hilum.serving.pacs.tls import client_context
from hilum.settings.serving import DestinationConfig

_CONNECT_S, _ASSOCIATE_S, _ANSWER_S = 10, 30, 300

_NOT_TAKEN = SendStatus(reason="the destination does not take this SOP class", is_final=True)


class StoreScu:
    """A destination that is a DICOM node.

    Args:
        config: The destination.
        calling: Own AE title.

    Raises:
        ConfigError: If the files of TLS cannot be used.
    """

    def __init__(self, config: DestinationConfig, calling: str) -> None:
        self._config, self._context = config, client_context(config.tls)
        self._node = AE(ae_title=config.calling or calling)
        self._node.connection_timeout = _CONNECT_S
        self._node.acse_timeout = _ASSOCIATE_S
        self._node.dimse_timeout = self._node.network_timeout = _ANSWER_S

    def send(self, files: Sequence[Path], study_uid: str) -> Iterator[SendStatus]:
        """See ``Destination.send``."""
        classes = sorted({str(read_file_meta_info(file).MediaStorageSOPClassUID) for file in files})
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        association = self._associated([build_context(one, syntaxes) for one in classes])
        if association is None:
            yield from [_NOT_TAKEN] * len(files)
            return
        try:
            for file in files:
                yield self._sent(association, file)
        finally:
            if association.is_established:
                with contextlib.suppress(RuntimeError, OSError):
                    association.release()

    def _associated(self, contexts: list[Any]) -> Any:
        """An association; None if the destination takes none of the contexts."""
        config = self._config
        about: dict[str, Any] = {"ae_title": config.ae_title, "contexts": contexts}
        if self._context is not None:
            about["tls_args"] = (self._context, config.host)
        try:
            association: Any = self._node.associate(config.host, config.port, **about)
        except (OSError, RuntimeError, ValueError, TypeError) as exc:
            raise UnreachableError from exc
        if not association.is_established:
            if association.is_rejected:
                msg = "the destination rejects the association: it does not know an AE title, or is busy"
                raise UnreachableError(msg)
            if association.rejected_contexts:
                return None
            raise UnreachableError
        association.dul.socket.socket.settimeout(_ANSWER_S)  # it waits for ever otherwise
        return association

    def _sent(self, association: Any, file: Path) -> SendStatus:
        try:
            status = association.send_c_store(file)
        except ValueError:  # no presentation context
            return _NOT_TAKEN
        except (RuntimeError, OSError, AttributeError) as exc:
            raise UnreachableError from exc
        if "Status" not in status:
            msg = "the destination does not answer"
            raise UnreachableError(msg)
        return status_of(int(status.Status))
