"""The routes of the API: predictions, jobs, models, the PACS, health, metrics and their description."""

import asyncio
import functools
import json
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hilum.errors import HilumError
from hilum.files import cores
from hilum.serving.app.access import VIEWER_CSP
from hilum.serving.app.jobs import OUTPUTS, Job, Jobs, JobSettings, QueueFullError
from hilum.serving.app.metrics import Metrics
from hilum.serving.app.openapi import description
from hilum.serving.app.refusals import RefusedError, drain
from hilum.serving.app.service import Service, job_record
from hilum.serving.app.uploads import small_body
from hilum.settings.toml import to_dict

_JOB_STATES = ("queued", "running", "done", "failed", "cancelled")
_LONGEST_WAIT_S = 30.0
_LOOK_S = 0.02
_MOST_LISTED = 500
_KINDS = {
    ".json": "application/json", ".html": "text/html", ".dcm": "application/dicom", ".gz": "application/gzip",
}  # fmt: skip

Endpoint = Callable[[Service, Request], Awaitable[Response]]


class Api:
    """The API of a service.

    Args:
        service: The service.

    Attributes:
        routes: Its routes.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._metrics = service, Metrics(service)
        self.routes = [
            self._route("/v1/predictions", _predict, "POST"),
            self._route("/v1/jobs", _list_jobs),
            self._route("/v1/jobs/{id}", _show_job),
            self._route("/v1/jobs/{id}", _delete_job, "DELETE"),
            self._route("/v1/jobs/{id}/cancel", _cancel_job, "POST"),
            self._route("/v1/jobs/{id}/result", _show_result),
            self._route("/v1/jobs/{id}/files/{name}", _send_file),
            self._route("/v1/models", _list_models),
            self._route("/v1/models/{name}", _show_model),
            self._route("/v1/studies", _list_studies),
            self._route("/v1/studies/{id}/send-again", _send_again, "POST"),
            self._route("/v1/studies/{id}/predict-again", _predict_again, "POST"),
            self._route("/v1/deliveries", _list_deliveries),
            self._route("/v1/pacs/{name}", _tell, "POST"),
            self._route("/healthz", _health),
            self._route("/readyz", _readiness),
            self._route("/metrics", self._measure),
            self._route("/openapi.json", _describe),
        ]

    def _route(self, path: str, endpoint: Endpoint, method: str = "GET") -> Route:
        @functools.wraps(endpoint)
        async def answer(request: Request) -> Response:
            request.state.route = path
            try:
                return await endpoint(self._service, request)
            except QueueFullError as exc:
                raise RefusedError(429, "queue-full", exc.message, headers={"retry-after": "30"}) from exc
            except sqlite3.OperationalError as exc:
                if "locked" in str(exc):
                    detail = "another program holds the data base of the service"
                    raise RefusedError(503, "busy", detail, headers={"retry-after": "30"}) from exc
                raise RefusedError(507, "disk-full", "the data base of the service cannot be written") from exc

        return Route(path, answer, methods=[method])

    async def _measure(self, _: Service, __: Request) -> Response:
        text = await run_in_threadpool(self._metrics.text)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _query(request: Request, *names: str) -> dict[str, str]:
    """The parameters of a query, each of which may stand once."""
    given = request.query_params.multi_items()
    unknown = sorted({name for name, _ in given} - set(names))
    if unknown:
        known = ", ".join(names) or "none"
        raise RefusedError(422, "query", f"a parameter of the query is unknown; known are: {known}")
    if len(given) > len({name for name, _ in given}):
        raise RefusedError(422, "query", "a parameter of the query must stand once")
    return dict(given)


def _whole(text: str, name: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
        raise RefusedError(422, "query", f"{name} must be a whole number from {low} to {high}")
    return int(text)


def _settings(service: Service, query: dict[str, str]) -> tuple[str, JobSettings]:
    """The model and the settings of a job, from a query."""
    models = service.models
    model = query.get("model", next(iter(models)) if len(models) == 1 else "")
    if model not in models:
        raise RefusedError(422, "model", f"model must be one of {', '.join(models)}")
    wanted = [one for one in query.get("outputs", "").split(",") if one]
    if not set(wanted) <= set(OUTPUTS):
        raise RefusedError(422, "outputs", f"outputs must be of {', '.join(OUTPUTS)}, with commas between")
    point = None
    is_point = models[model].card.recipe.region == "point"
    if "point" in query:
        if not re.fullmatch(r"-?\d{1,6}(\.\d{1,6})?(,-?\d{1,6}(\.\d{1,6})?){2}", query["point"], re.ASCII):
            raise RefusedError(422, "point", "point must be x,y,z in LPS mm")
        x, y, z = (float(mm) for mm in query["point"].split(","))
        point = (x, y, z)
    if is_point != (point is not None):
        must = "must be given for this model" if is_point else "is for models of region point, this one has another"
        raise RefusedError(422, "point", f"point {must}")
    series = query.get("series", "")
    if not re.fullmatch(r"[\w.-]{0,80}", series, re.ASCII):
        raise RefusedError(422, "series", "series must be a UID, a hash or a rule: letters, digits, _ . -")
    outputs = tuple(one for one in OUTPUTS if one in wanted)
    return model, JobSettings(outputs=outputs, point_mm=point, series=series)


async def _predict(service: Service, request: Request) -> Response:
    try:
        model, settings = _settings(service, _query(request, "model", "outputs", "point", "series"))
        await run_in_threadpool(service.jobs.check_room)
    except (RefusedError, QueueFullError):
        await drain(request.receive)
        raise
    id = Jobs.new_id()  # noqa: A001
    num_bytes = await service.uploads.receive(request, id)
    try:
        job = await run_in_threadpool(service.submit, id, model, settings, num_bytes, request.state.who)
    except BaseException:
        service.database.remove("uploads", id)
        raise
    return JSONResponse(_record(service, job), 202, headers={"location": f"/v1/jobs/{id}"})


def _record(service: Service, job: Job) -> dict[str, Any]:
    return job_record(job, place=service.jobs.place(job) if job.state == "queued" else None)


def job_of(service: Service, request: Request) -> Job:
    """The job that a path names.

    Raises:
        RefusedError: If there is none.
    """
    id = request.path_params["id"]  # noqa: A001
    try:
        job = service.jobs[id]
    except KeyError:
        raise RefusedError(404, "no-job", "there is no such job") from None
    if job.state == "deleted":
        raise RefusedError(410, "deleted", "this job was deleted")
    return job


async def _list_jobs(service: Service, request: Request) -> Response:
    found = await run_in_threadpool(service.jobs.latest, **_page_of(request, _JOB_STATES))
    counts = service.jobs.counts()
    about = {"jobs": [job_record(one) for one in found], "counts": {one: counts.get(one, 0) for one in _JOB_STATES}}
    return JSONResponse(about)


async def _show_job(service: Service, request: Request) -> Response:
    text = _query(request, "wait").get("wait", "0")
    seconds = _whole(text, "wait", 0, int(_LONGEST_WAIT_S))
    job, revision, deadline = job_of(service, request), service.database.revision, time.monotonic() + seconds
    seen = (job.state, job.step)
    while seconds and not job.has_ended and (job.state, job.step) == seen and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        if service.database.revision != revision:
            revision, job = service.database.revision, job_of(service, request)
    return JSONResponse(_record(service, job))


async def _delete_job(service: Service, request: Request) -> Response:
    job = job_of(service, request)
    if not job.has_ended:
        raise RefusedError(409, "not-ended", "a job must have ended to be deleted: cancel it first")
    await run_in_threadpool(service.jobs.delete, job.id, request.state.who)
    return Response(status_code=204)


async def _cancel_job(service: Service, request: Request) -> Response:
    job = job_of(service, request)
    if job.has_ended and job.state != "cancelled":
        raise RefusedError(409, "ended", "the job has ended")
    job = await run_in_threadpool(service.cancel, job.id, request.state.who)
    return JSONResponse(_record(service, job))


async def _show_result(service: Service, request: Request) -> Response:
    return await _sent(service, request, "result.json")


async def _send_file(service: Service, request: Request) -> Response:
    return await _sent(service, request, request.path_params["name"])


async def _sent(service: Service, request: Request, name: str) -> Response:
    """A file of a result."""
    job = job_of(service, request)
    if job.state != "done":
        detail = "the job has no result" + ("" if job.has_ended else " yet")
        raise RefusedError(409, "no-result-yet" if not job.has_ended else "no-result", detail)
    if job.removed is not None:
        raise RefusedError(410, "expired", "the result was removed when its time was over")
    if name not in ("result.json", *job.summary["files"]):
        raise RefusedError(404, "no-file", "the result has no such file")
    await run_in_threadpool(service.database.audit, request.state.who, f"fetched {name}", job.id)
    headers = {"content-security-policy": VIEWER_CSP} if name.endswith(".html") else {}
    path = service.database.folder / "results" / job.id / name
    if not path.is_file():
        raise RefusedError(410, "expired", "the result was removed when its time was over")
    return FileResponse(path, media_type=_KINDS[path.suffix], headers=headers)


async def _list_models(service: Service, request: Request) -> Response:
    _query(request)
    about = [
        {
            "name": one.name,
            "digest": one.digest,
            "classes": list(one.card.classes),
            "region": one.card.recipe.region,
            "intended_use": one.card.training.get("statements", {}).get("intended_use", ""),
        }
        for one in service.models.values()
    ]
    return JSONResponse({"models": about})


async def _show_model(service: Service, request: Request) -> Response:
    _query(request)
    model = service.models.get(request.path_params["name"])
    if model is None:
        raise RefusedError(404, "no-model", "there is no such model")
    return JSONResponse({"name": model.name, "digest": model.digest, "card": to_dict(model.card)})


def _pacs(service: Service) -> Any:
    if service.pacs is None:
        raise RefusedError(404, "no-pacs", "the service works beside no PACS")
    return service.pacs


async def _list_studies(service: Service, request: Request) -> Response:
    from hilum.serving.pacs.studies import STUDY_STATES

    pacs = _pacs(service)
    found = await run_in_threadpool(pacs.studies, **_page_of(request, STUDY_STATES))
    return JSONResponse({"studies": [to_dict(one) for one in found]})


async def _list_deliveries(service: Service, request: Request) -> Response:
    from hilum.serving.pacs.deliveries import DELIVERY_STATES

    pacs = _pacs(service)
    found = await run_in_threadpool(pacs.deliveries, **_page_of(request, DELIVERY_STATES))
    return JSONResponse({"deliveries": [to_dict(one) for one in found]})


def _page_of(request: Request, states: Sequence[str]) -> dict[str, Any]:
    """Which part of a list a query wants."""
    query = _query(request, "state", "limit", "offset")
    state = query.get("state", "")
    if state and state not in states:
        raise RefusedError(422, "state", f"state must be one of {', '.join(states)}")
    most = _whole(query.get("limit", "100"), "limit", 1, _MOST_LISTED)
    return {"state": state, "most": most, "offset": _whole(query.get("offset", "0"), "offset", 0, 10**9)}


async def _send_again(service: Service, request: Request) -> Response:
    _query(request)
    pacs = _pacs(service)
    try:
        count = await run_in_threadpool(pacs.send_again, request.path_params["id"], request.state.who)
    except KeyError:
        raise _no_study() from None
    if not count:
        raise RefusedError(409, "nothing-to-send", "nothing of this study was given up")
    return JSONResponse({"objects": count}, 202)


async def _predict_again(service: Service, request: Request) -> Response:
    _query(request)
    pacs = _pacs(service)
    try:
        await run_in_threadpool(pacs.predict_again, request.path_params["id"], request.state.who)
    except KeyError:
        raise _no_study() from None
    except HilumError as exc:
        raise RefusedError(409, "not-again", exc.message) from exc
    return JSONResponse({}, 202)


def _no_study() -> RefusedError:
    return RefusedError(404, "no-study", "there is no such study")


async def _tell(service: Service, request: Request) -> Response:
    _query(request)
    pacs, name = _pacs(service), request.path_params["name"]
    if name not in [one.name for one in service.config.web]:
        raise RefusedError(404, "no-pacs", "there is no such PACS")
    body = await small_body(request)
    try:
        given = json.loads(body)
        uid = given["study_uid"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise RefusedError(422, "study", 'the body must be {"study_uid": "..."}') from exc
    if not isinstance(uid, str) or not re.fullmatch(r"[0-9.]{1,64}", uid, re.ASCII):
        raise RefusedError(422, "study", "study_uid must be a UID: digits and dots, at most 64")
    try:
        await run_in_threadpool(pacs.tell, name, uid)
    except QueueFullError:
        raise
    except HilumError as exc:
        raise RefusedError(422, "study", exc.message) from exc
    return JSONResponse({}, 202)


async def _health(_: Service, request: Request) -> Response:
    _query(request)
    return JSONResponse({"status": "ok"})


async def _readiness(service: Service, request: Request) -> Response:
    _query(request)
    is_ready = service.engine.is_ready
    about = {"status": "ready" if is_ready else "starting", "workers": cores()}
    return JSONResponse(about, 200 if is_ready else 503)


async def _describe(service: Service, request: Request) -> Response:
    _query(request)
    return JSONResponse(description(tuple(service.models)))
