"""Answers that say no: a status, a code and a sentence, as problem details (RFC 9457)."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

_DRAIN_BYTES, _DRAIN_S = 1 << 26, 2.0


class RefusedError(Exception):
    """A request that is not done.

    Args:
        status: HTTP status.
        code: What is wrong, in a word for programs.
        detail: The same in a sentence, without anything of the client's.
        headers: Further headers of the answer.
        closes: Whether the connection is closed, as where a body was not read to its end.
    """

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, closes: bool = False
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = {**(headers or {}), **({"connection": "close"} if closes else {})}


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer of a refusal."""
    about: dict[str, Any] = {"status": status, "code": code, "detail": detail}
    return JSONResponse(about, status, headers=dict(headers or {}), media_type="application/problem+json")


async def refusal(_: Request, exc: Exception) -> Response:
    """The answer to a RefusedError."""
    assert isinstance(exc, RefusedError)  # noqa: S101
    return problem(exc.status, exc.code, exc.detail, exc.headers)


async def fault(_: Request, __: Exception) -> Response:
    """The answer to a bug: its words may hold what a client sent."""
    return problem(500, "bug", "a fault in Hilum")


async def drain(receive: Receive) -> None:
    """Read on for a moment: a client that still sends its body does not hear an answer before."""
    num_bytes = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while num_bytes < _DRAIN_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                num_bytes += len(message.get("body", b""))
