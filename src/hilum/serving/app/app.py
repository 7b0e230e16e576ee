"""Puts the service together as an ASGI app, and runs it until it is told to stop."""

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from hilum.errors import HilumError, require
from hilum.serving.app.access import Guard, Tokens, is_loopback
from hilum.serving.app.api import Api
from hilum.serving.app.refusals import RefusedError, fault, problem, refusal
from hilum.serving.app.service import Service
from hilum.serving.app.web_pages import page_routes

_log = logging.getLogger("hilum.serve")

_MOST_CONNECTIONS = 500


def make_app(service: Service, *, tokens: Tokens | None, hosts: Sequence[str]) -> ASGIApp:
    """The app of a service.

    Args:
        service: The service.
        tokens: Who may ask; None: everybody who reaches it.
        hosts: Names and addresses for which requests may come.
    """
    origins = service.config.origins
    cors = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type"],
    )  # fmt: skip
    app = Starlette(
        routes=[*Api(service).routes, *page_routes(service, tokens)],
        exception_handlers={RefusedError: refusal, HTTPException: _no_route, Exception: fault},
        middleware=[cors] if origins else [],
    )
    app.router.redirect_slashes = False
    return Guard(app, tokens=tokens, hosts=hosts, origins=origins)


async def _no_route(_: Request, exc: Exception) -> Response:
    """The answer where no route or method is."""
    status = getattr(exc, "status_code", 404)
    detail = "there is no such page" if status == 404 else "the page does not take this method"
    return problem(status, "no-page" if status == 404 else "method", detail, getattr(exc, "headers", None))


class _TimedProtocol(H11Protocol):
    """HTTP of uvicorn that does not wait for ever for the head of a request."""

    head_s: float

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_again(None, -1)

    def _look_again(self, idle: Any, unsent: int) -> None:
        """Close a connection on which, since the last look, no request has begun, or nothing of an answer was read.

        Args:
            idle: The request that had ended at the last look; None: one was under way.
            unsent: Bytes of an answer that waited then.
        """
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        waiting = self.transport.get_write_buffer_size()
        if waiting and waiting == unsent:
            self.transport.abort()
            return
        if is_idle and not waiting and idle is not None and idle == (self.cycle,):
            self.transport.close()
            return
        self.loop.call_later(self.head_s, self._look_again, (self.cycle,) if is_idle else None, waiting)


def run_service(
    service: Service,
    *,
    host: str,
    port: int,
    tokens: Tokens | None,
    on_start: Callable[[int], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and end in order.

    Args:
        service: The service.
        host: Address to listen on.
        port: Port; 0: a free one.
        tokens: Who may ask.
        on_start: Called with the port once the service listens.

    Raises:
        HilumError: If the address, or that of a DICOM node, cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it each answer takes 40 ms
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as exc:
            msg = f"the service cannot listen on {host}, port {port}: {exc.strerror}"
            raise HilumError(msg, hint="--port names another") from exc
        bound = listening.getsockname()[1]
        app = make_app(service, tokens=tokens, hosts=hosts_of(host, service.config.hosts))
        protocol = type("TimedProtocol", (_TimedProtocol,), {"head_s": service.config.limits.head_s})
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, http=protocol,
            ws="none", lifespan="off", limit_concurrency=_MOST_CONNECTIONS, timeout_keep_alive=10, backlog=512,
            timeout_graceful_shutdown=5, h11_max_incomplete_event_size=1 << 16,
        )  # fmt: skip
        server = _Server(config, lambda: on_start(bound))
        _log.info("start", extra={"port": bound})
        try:
            service.start()
            server.run(sockets=[listening])
        finally:
            service.stop()
            _log.info("end")


class _Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()


def hosts_of(host: str, others: Sequence[str]) -> list[str]:
    """Names for which requests may come: those of the address, and others that the settings name."""
    own = ["localhost", "127.0.0.1", "::1"] if is_loopback(host) else [host]
    any_address = host in ("0.0.0.0", "::")  # noqa: S104
    return [*others, *([] if any_address else own), *(["localhost", "127.0.0.1"] if any_address else [])]


def check_address(host: str, *, has_tokens: bool, insecure: bool) -> None:
    """Check that other machines reach the service only where they need a token.

    Raises:
        ConfigError: If they would need none.
    """
    right = is_loopback(host) or has_tokens or insecure
    require(right, "--host", "of this machine alone, or with --token-file (or --insecure)", host)


@contextmanager
def private_files(data: Path) -> Iterator[None]:
    """See to it that what this process writes is its owner's alone, and temporary files lie in the data folder."""
    before = os.umask(0o077), tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(data / "tmp")
    try:
        yield
    finally:
        umask, tempfile.tempdir, variable = before
        os.umask(umask)
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable
