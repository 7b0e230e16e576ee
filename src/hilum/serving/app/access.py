"""Who may ask: tokens, names of the host, origins of pages, and the headers that keep pages to themselves."""

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hilum.errors import ConfigError, require
from hilum.serving.app.refusals import drain, problem

_log = logging.getLogger("hilum.serve")

COOKIE = "hilum"
LOCAL = "local"
"""Who asks, where no token is wanted."""
UNKNOWN = "unknown"
"""Who asks without a token, where one is wanted."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
VIEWER_CSP = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
"""Of a result's page: its own script runs, but in a sandbox, from which it cannot ask the service for anything."""

_OPEN = ("/healthz", "/login", "/static/")
_SAFE = ("GET", "HEAD", "OPTIONS")
_LEAST = 16
"""Characters of a token."""


class Tokens:
    """The tokens of a file: one a line, or ``name token``; the names stand in the audit log.

    Raises:
        ConfigError: If the file can be read by others, or holds no token of enough characters.
    """

    def __init__(self, file: Path) -> None:
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
            lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as exc:
            msg = f"the token file cannot be read: {getattr(exc, 'strerror', None) or 'it is no text'}"
            raise ConfigError(msg, path=file) from exc
        require(not mode & 0o077 or os.name == "nt", "the token file", "its owner's alone (chmod 600)", f"{mode:03o}")
        self._tokens: dict[str, bytes] = {}
        for number, words in enumerate([one for one in lines if one and not one[0].startswith("#")], start=1):
            require(len(words) <= 2, "a line of the token file", "a token, or a name and a token", "more words")
            name = words[0] if len(words) == 2 else f"token-{number}"
            require(bool(re.fullmatch(r"[\w.-]{1,40}", name)), "a token's name", "letters, digits, _ . -", "others")
            require(len(words[-1]) >= _LEAST, "a token", f"at least {_LEAST} characters", len(words[-1]))
            self._tokens[name] = words[-1].encode()
        require(bool(self._tokens), "the token file", "of one token at least", "none")

    def who(self, given: str) -> str:
        """The name of a token; empty if it is none."""
        return self._who(given.encode("utf-8", "replace"), lambda token: token)

    def who_of_cookie(self, given: str) -> str:
        """The name of the token that a cookie stands for; empty if it stands for none."""
        return self._who(given.encode("utf-8", "replace"), lambda token: cookie_of(token).encode())

    def _who(self, given: bytes, expected: Callable[[bytes], bytes]) -> str:
        found = ""
        for name, token in self._tokens.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected(token)).digest()):
                found = name
        return found


def cookie_of(token: bytes) -> str:
    """What a browser keeps in place of a token."""
    return hmac.new(token, b"hilum page", "sha256").hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine that no other machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests through to an app, or refuses them; adds headers to all answers, and logs them.

    Args:
        app: The app.
        tokens: Who may ask; None: everybody who reaches the service.
        hosts: Names and addresses for which requests may come.
        origins: Origins of other pages that may call the API.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens | None, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._app, self._tokens = app, tokens
        self._hosts, self._origins = {host.lower() for host in hosts}, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        scope.setdefault("state", {})["who"] = LOCAL if self._tokens is None else UNKNOWN

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _protect(MutableHeaders(scope=message))
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await drain(receive)
                await refused(scope, receive, sent)
            else:
                await self._app(scope, receive, sent)
        except ClientDisconnect:
            status = 499
        except Exception as exc:  # noqa: BLE001  # a bug: its words may hold what a client sent
            _log.error("bug", extra={"code": type(exc).__name__})
            if not status:
                await problem(500, "bug", "a fault in Hilum")(scope, receive, sent)
        finally:
            route = scope.get("state", {}).get("route", "none")
            ms = round(1000 * (time.perf_counter() - start), 1)
            about = {"route": route, "method": _method(scope), "status": status, "ms": ms, "who": scope["state"]["who"]}
            _log.info("request", extra=about)

    def _refused(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let through."""
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        if _host_of(headers.get("host", "")) not in self._hosts:
            return problem(400, "host", "the Host must be a name by which this service is reached")
        origin = headers.get("origin")
        is_foreign = origin is not None and origin not in self._origins and not _is_own(origin, headers["host"])
        if method not in _SAFE and (is_foreign or (origin is None and headers.get("sec-fetch-site") == "cross-site")):
            return problem(403, "origin", "the page that asks must be of this service, or of an origin it knows")
        if self._tokens is None or path.startswith(_OPEN):
            return None
        who = self._who(headers)
        if not who:
            is_page = method == "GET" and "text/html" in headers.get("accept", "") and not path.startswith("/v1/")
            if is_page:
                return RedirectResponse("/login", 303)
            detail = "a valid token must be given, as Authorization: Bearer TOKEN"
            return problem(401, "token", detail, {"www-authenticate": "Bearer"})
        scope["state"]["who"] = who
        return None

    def _who(self, headers: Headers) -> str:
        assert self._tokens is not None  # noqa: S101
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._tokens.who(given.strip())
        cookies = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return ""
        return self._tokens.who_of_cookie(cookies[COOKIE].value) if COOKIE in cookies else ""


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in (*_SAFE, "POST", "DELETE", "PUT", "PATCH") else "other"


def _host_of(header: str) -> str:
    """The host of a Host header, without its port."""
    return re.sub(r":\d{1,5}$", "", header).strip("[]").lower()


def _is_own(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _protect(headers: MutableHeaders) -> None:
    """Headers with which nothing is kept, guessed, framed or told to others."""
    headers.setdefault("content-security-policy", CSP)
    headers.setdefault("cache-control", "no-store")
    headers["x-content-type-options"] = "nosniff"
    headers["referrer-policy"] = "no-referrer"
    headers["cross-origin-resource-policy"] = "same-origin"
    headers["cross-origin-opener-policy"] = "same-origin"
