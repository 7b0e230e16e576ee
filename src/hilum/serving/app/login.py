"""The page on which a user gives a token once, in place of which the browser then keeps a cookie."""

import time
from collections import deque
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hilum.serving.app.access import COOKIE, UNKNOWN, Tokens, cookie_of
from hilum.serving.app.database import Database
from hilum.serving.app.uploads import small_body

_AUDITED, _AUDITED_S = 20, 60.0
"""Failed logins that are written down in as many seconds: with more, anybody could fill the disk."""


def login_routes(database: Database, tokens: Tokens | None, shown: Callable[..., Response]) -> list[Route]:
    """The routes by which users log in and out.

    The cookie is HttpOnly and SameSite=Strict, ends with the browser, and is Secure where the browser came by https:
    the Origin that it sends says so, also behind a proxy.

    Args:
        database: Its audit log tells of logins.
        tokens: Who may ask; None: nobody has to log in.
        shown: Makes a page of a template.
    """
    failed = deque[float](maxlen=_AUDITED)

    async def form(request: Request) -> Response:
        request.state.route = "/login"
        if tokens is None:
            return RedirectResponse("/", 303)
        return shown("login", "Log in", is_known=False, trouble="")

    async def login(request: Request) -> Response:
        request.state.route = "/login"
        if tokens is None:
            return RedirectResponse("/", 303)
        token = await _token_in(request)
        who = tokens.who(token)
        if not who:
            now = time.monotonic()
            if len(failed) < _AUDITED or now - failed[0] > _AUDITED_S:
                failed.append(now)
                await run_in_threadpool(database.audit, UNKNOWN, "failed login", "page")
            return shown("login", "Log in", is_known=False, status=401, trouble="This token is not known here.")
        await run_in_threadpool(database.audit, who, "logged in", "page")
        answer = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
        answer.set_cookie(COOKIE, cookie_of(token.encode()), httponly=True, samesite="strict", secure=is_secure)
        return answer

    async def logout(request: Request) -> Response:
        request.state.route = "/logout"
        await run_in_threadpool(database.audit, request.state.who, "logged out", "page")
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    return [
        Route("/login", form),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
    ]


async def _token_in(request: Request) -> str:
    """The token of a form, without the spaces around it."""
    body = await small_body(request)
    given = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=None)
    return given.get("token", [""])[0].strip()
