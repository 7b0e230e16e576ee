"""The DICOM node: takes instances by C-STORE from those who may store them, each as a whole or not at all."""

import contextlib
import ipaddress
import logging
import queue
import shutil
import socket
import sqlite3
import ssl
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from pynetdicom import (
    AE,
    ALL_TRANSFER_SYNTAXES,
    AllStoragePresentationContexts,
    _config,
    dimse_messages,
    evt,
)
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from hilum.errors import ConfigError, HilumError, ReadError
from hilum.serving.pacs.destination import SUCCESS
from hilum.serving.pacs.instance import read_instance
from hilum.serving.pacs.studies import NODE, Studies
from hilum.serving.pacs.tls import server_context
from hilum.settings.serving import NodeConfig

_log = logging.getLogger("hilum.serve")

_OUT_OF_RESOURCES, _NO_MATCH, _NOT_UNDERSTOOD = 0xA700, 0xA900, 0xC000
_CALLING_NOT_RECOGNISED = (0x01, 0x01, 0x03)

_PDU = 131_072
"""Largest PDU in bytes that is asked for; one that is much larger ends the association."""

_CHECK = 1 << 26
"""Bytes after which an instance that arrives is checked against the limits."""

_MOST_COMMAND = 1 << 20
"""Bytes of a command, and of what comes with one that is not C-STORE."""

_SAY_S = 10.0

_OPEN_TIMES = 10
"""Times of ``stable_s`` after which an association that stores nothing, and stays open, holds up no study."""

_HANDSHAKE_S, _ASSOCIATE_S, _NETWORK_S = 15.0, 15.0, 60.0


class Node:
    """A C-ECHO and C-STORE SCP.

    Args:
        config: The node.
        studies: Where studies go.

    Raises:
        ConfigError: If its address or port cannot be used, a peer's name is not known, or a file of TLS cannot be used.
    """

    def __init__(self, config: NodeConfig, studies: Studies) -> None:
        self._config, self._studies = config, studies
        self._scratch = studies.database.folder / "tmp" / "node"
        self._peers = {(peer.ae_title.strip(), address) for peer in config.peers for address in _addresses(peer.host)}
        self._storing: dict[int, tuple[str, float]] = {}  # what an open association stored last, and when
        self._lock, self._said = threading.Lock(), -_SAY_S
        self._tls = server_context(config.tls)
        self._server: Any = None

    def start(self) -> None:
        """Listen."""
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        _config.STORE_RECV_CHUNKED_DATASET = True
        _config.LOG_HANDLER_LEVEL = "none"
        made = partial(tempfile.NamedTemporaryFile, dir=self._scratch)
        setattr(dimse_messages, "NamedTemporaryFile", made)  # noqa: B010  # instances go there as they arrive
        entity = AE(ae_title=self._config.ae_title)
        entity.maximum_associations, entity.maximum_pdu_size = self._config.associations, _PDU
        entity.acse_timeout, entity.network_timeout, entity.dimse_timeout = _ASSOCIATE_S, _NETWORK_S, _NETWORK_S
        entity.require_called_aet = True
        entity.require_calling_aet = sorted({title for title, _ in self._peers})
        entity.add_supported_context(Verification, ALL_TRANSFER_SYNTAXES)
        for one in AllStoragePresentationContexts:
            entity.add_supported_context(str(one.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested), (evt.EVT_REJECTED, lambda _: self.refused("association")),
            (evt.EVT_C_STORE, self._stored), (evt.EVT_CONN_CLOSE, self._closed),
        ]  # fmt: skip
        try:
            self._server = entity.make_server(
                (self._config.host, self._config.port), evt_handlers=handlers, ssl_context=None, server_class=_Server,
            )  # fmt: skip
        except OSError as exc:
            msg = f"the node cannot listen at {self._config.host}:{self._config.port}: {exc.strerror}"
            raise ConfigError(msg) from exc
        entity._servers.append(self._server)
        self._server.node = self
        threading.Thread(target=self._server.serve_forever, name="node", daemon=True).start()

    def stop(self) -> None:
        """Stop to listen, and abort associations: what was not answered is sent again."""
        if self._server is not None:
            open_ones = self._server.active_associations
            self._server.shutdown()
            for one in open_ones:
                with contextlib.suppress(Exception):  # it may have ended meanwhile
                    one.abort()
            self._server = None

    def is_storing(self, study: str) -> bool:
        """Whether an association that is open stored an instance of a study last, and not long ago."""
        since = time.monotonic() - _OPEN_TIMES * self._config.stable_s
        with self._lock:
            return any(one == study and at > since for one, at in self._storing.values())

    def sweep(self) -> None:
        """Remove what associations left that ended without saying so."""
        before = time.time() - 2 * _NETWORK_S
        for file in self._scratch.iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < before:
                    file.unlink()

    def allows(self, address: str) -> bool:
        """Whether a peer has this address."""
        is_known = _plain(address) in {one for _, one in self._peers}
        if not is_known:
            self.refused("host")
        return is_known

    def refused(self, why: str) -> None:
        """Say in the log, once in a while, that somebody was refused."""
        with self._lock:
            is_due = time.monotonic() - self._said > _SAY_S
            self._said = time.monotonic() if is_due else self._said
        if is_due:
            _log.warning("refused", extra={"of": NODE, "code": why})

    def check_size(self, size: int) -> None:
        """Raise an OSError, which ends the association, if an instance that arrives is too large for the limits."""
        limits = self._studies.config.limits
        if size > limits.unpacked_gb * 1e9 or shutil.disk_usage(self._scratch).free < limits.free_gb * 1e9:
            msg = "too large"
            raise OSError(msg)

    def server_tls(self) -> ssl.SSLContext | None:
        """Its side of TLS."""
        return self._tls

    def _requested(self, event: Any) -> None:
        """Refuse an AE title that comes from the address of another peer."""
        association = event.assoc
        title = str(association.requestor.primitive.calling_ae_title).strip()
        if (title, _plain(association.requestor.address)) not in self._peers:
            association.acse.send_reject(*_CALLING_NOT_RECOGNISED)
            self.refused("association")
            association.kill()

    def _stored(self, event: Any) -> int:
        """Take an instance; what it answers is its status (PS3.4 B.2.3)."""
        path = Path(event.dataset_path)
        limits = self._studies.config.limits
        try:
            header = read_instance(path)
        except ReadError:
            return _NOT_UNDERSTOOD
        try:
            if not header.is_source or self._studies.deliveries.is_own(header.instance):
                return SUCCESS  # nothing that is predicted: own results among others
            if str(event.request.AffectedSOPInstanceUID) != header.instance:
                return _NO_MATCH
            if shutil.disk_usage(self._scratch).free < limits.free_gb * 1e9:
                return _OUT_OF_RESOURCES
            study = self._studies.place(header, path)
        except (OSError, HilumError, sqlite3.Error):
            return _OUT_OF_RESOURCES
        with self._lock:
            self._storing[id(event.assoc)] = (study, time.monotonic())
        return SUCCESS

    def _closed(self, event: Any) -> None:
        """Remove what a broken association left."""
        association = event.assoc
        with self._lock:
            self._storing.pop(id(association), None)
        messages = [association.dimse.message]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(association.dimse.msg_queue.get_nowait()[1])
        for one in messages:
            for attribute in ("_data_set_file", "_dataset_file"):
                file = getattr(one, attribute, None)
                if file is not None:
                    file.close()
                    Path(file.name).unlink(missing_ok=True)


class _Handler(RequestHandler):
    """Makes the association of a connection, whose PDUs and instances are bounded."""

    server: "_Server"

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        association.dul.socket.recv = partial(_received, association, self.server.node)
        return association


class _Server(ThreadedAssociationServer):
    """A server that talks to the addresses of peers alone; a slow handshake keeps nobody else waiting."""

    node: Node

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "request_handler": _Handler})
        self.daemon_threads = True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.node.allows(str(client_address[0]))

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands within the thread of the connection."""
        try:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request.settimeout(_HANDSHAKE_S)
            context = self.node.server_tls()
            if context is not None:
                request = context.wrap_socket(request, server_side=True)
            request.settimeout(_NETWORK_S)
        except OSError:
            self.shutdown_request(request)
            return
        super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what is printed otherwise holds addresses."""


def _received(association: Any, node: Node, num_bytes: int) -> bytearray:
    """So many bytes, or fewer where the connection ends; takes the place of ``AssociationSocket.recv``."""
    if num_bytes > 2 * _PDU:
        msg = "a PDU is larger than was agreed on"
        raise OSError(msg)
    connection = association.dul.socket.socket
    if hasattr(socket, "TCP_QUICKACK"):  # a sender that waits for it, as DCMTK does, is else held up by 40 ms each time
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    content = bytearray(num_bytes)
    view, at = memoryview(content), 0
    while at < num_bytes:
        got = connection.recv_into(view[at:])
        if not got:
            break
        at += got
    message = association.dimse.message
    file = getattr(message, "_data_set_file", None)
    if file is not None:
        size = file.tell()
        if size // _CHECK != (size - num_bytes) // _CHECK:
            node.check_size(size)
    elif message is not None and message.encoded_command_set.tell() + message.data_set.tell() > _MOST_COMMAND:
        msg = "a command is too long"
        raise OSError(msg)
    view.release()
    return content if at == num_bytes else content[:at]


def _addresses(host: str) -> set[str]:
    """The addresses of a host.

    Raises:
        ConfigError: If its name is not known.
    """
    try:
        return {_plain(str(found[4][0])) for found in socket.getaddrinfo(host, None)}
    except OSError as exc:
        msg = f"host of a peer must be an address or a name that is known here, {host} is not"
        raise ConfigError(msg) from exc


def _plain(address: str) -> str:
    """An address in one spelling, IPv4 in IPv6 as IPv4."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)
