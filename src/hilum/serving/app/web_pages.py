"""The pages of the service: a place to drop a scan on, the list of jobs, a job with its viewer, a model's card."""

from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hilum.serving.app.access import Tokens
from hilum.serving.app.refusals import RefusedError
from hilum.serving.app.service import Service

_PACKAGE = "hilum.serving.app"
_STATIC = {"app.css": "text/css", "app.js": "text/javascript"}


def page_routes(service: Service, tokens: Tokens | None) -> list[Route]:
    """The routes of the pages.

    Args:
        service: The service.
        tokens: Who may ask; None: nobody has to log in.
    """

    def route(path: str, answer: Callable[[Request], Any], *methods: str) -> Route:
        async def answered(request: Request) -> Response:
            request.state.route = path
            found: Response = await answer(request)
            return found

        return Route(path, answered, methods=list(methods) or ["GET"])

    async def start(_: Request) -> Response:
        return HTMLResponse(f"<!doctype html><title>Hilum {version('hilum')}</title><p>{len(service.models)} models")

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise RefusedError(404, "no-file", "there is no such file")
        text = files(_PACKAGE).joinpath("static", name).read_text(encoding="utf-8")
        return Response(text, media_type=_STATIC[name], headers={"cache-control": "no-cache"})

    return [route("/", start), route("/static/{name}", static)]
