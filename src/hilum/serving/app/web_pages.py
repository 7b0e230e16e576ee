"""The pages of the service: a place to drop a scan on, the list of jobs, a job with its viewer, a model's card."""

import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.deciding.decision_words import shown_probability
from hilum.pages import html_page
from hilum.serving.app.access import Tokens
from hilum.serving.app.api import job_of
from hilum.serving.app.card_words import words_of
from hilum.serving.app.jobs import Job
from hilum.serving.app.login import login_routes
from hilum.serving.app.refusals import RefusedError
from hilum.serving.app.service import Service, job_record, utc
from hilum.serving.app.worker import ServedModel
from hilum.serving.viewer.answer import meaning_of

_PACKAGE = "hilum.serving.app"
_STATIC = {
    "app.css": ("text/css", (("hilum", "page_base.css"), (_PACKAGE, "static/app.css"))),
    "app.js": ("text/javascript", ((_PACKAGE, "static/app.js"),)),
    "icon.svg": ("image/svg+xml", ((_PACKAGE, "static/icon.svg"),)),
}
"""Media type of each file, and the files of packages that it is put together from."""

_SHORT = 8
"""Characters of a job's id on a page."""

_FILES = {
    "page.html": "Open the viewer on its own",
    "report.dcm": "Report (DICOM)",
    "segmentation.dcm": "Segmentation (DICOM)",
    "map.nii.gz": "Map (NIfTI)",
    "map.dcm": "Map (DICOM)",
    "page.dcm": "Picture of the page (DICOM)",
}

_SENT_WORDS = {"dead": "given up", "shadow": "not sent (shadow mode)", "superseded": "replaced by a newer result"}


class Pages:
    """The pages of a service.

    Args:
        service: The service.
        has_tokens: Whether users log in.
    """

    def __init__(self, service: Service, *, has_tokens: bool) -> None:
        self.service = service
        self._has_tokens = has_tokens

    def shown(self, page: str, title: str, *, status: int = 200, is_known: bool = True, **values: Any) -> Response:
        """A page as an answer.

        Args:
            page: Name of its template.
            title: Its title.
            status: HTTP status.
            is_known: Whether the user has logged in, where users do.
            values: What the template fills in.
        """
        places = [("/", "Scans")]
        if self.service.pacs is not None:
            places.append(("/studies", "Studies"))
        text = html_page(
            _PACKAGE, f"html/{page}.html", page=page, title=title, places=places if is_known else [],
            here={"start": "/", "studies": "/studies"}.get(page, ""), leaves=self._has_tokens and is_known,
            version=version("hilum"), keep=_hours(self.service.config.keep_hours), **values,
        )  # fmt: skip
        return HTMLResponse(text, status)

    def start(self, _: Request) -> Response:
        """The place to drop a scan on, and the list of jobs."""
        limits = self.service.config.limits
        models = [_choice(one) for one in self.service.models.values()]
        return self.shown(
            "start", "Predict a chest CT", models=models, most_files=limits.parts, most_bytes=int(limits.body_gb * 1e9)
        )

    def job(self, request: Request) -> Response:
        """A job: its steps while it runs, then its result or why there is none."""
        service, job = self.service, job_of(self.service, request)
        about = job_record(job)
        short = job.id[:_SHORT]
        values: dict[str, Any] = {
            "job": job,
            "short": short,
            "created": about["created"],
            "took": _took(job),
            "origin": "" if job.origin == "upload" else job.origin,
            "is_served": job.model in service.models,
            "now": _now(job, service.jobs.place(job) if job.state == "queued" else 0),
            "reason": f"{job.reason[:1].upper()}{job.reason[1:]}.",
        }
        if job.state == "done":
            values |= self._result(job)
        return self.shown("job", f"Job {short}", **values)

    def _result(self, job: Job) -> dict[str, Any]:
        """What the page of a job that is done says of its result."""
        summary = job.summary
        names = [] if job.removed is not None else summary["files"]
        result: dict[str, Any] = {}
        if job.removed is None:
            try:
                place = self.service.database.folder / "results" / job.id / "result.json"
                result = json.loads(place.read_text(encoding="utf-8"))
            except FileNotFoundError:
                names = []  # its time was over a moment ago
        kind = summary["outcome"]
        reason = result.get("reason") or ", ".join(summary["codes"]) or "of what its removed result says"
        probabilities = {} if kind == NO_RESULT else summary["probabilities"]
        shown = [("result", "", "All figures (JSON)")] if result else []
        shown += [(f"files/{name}", name, _FILES.get(name, name)) for name in names]
        return {
            "kind": kind,
            "decision": summary["decision"],
            "meaning": meaning_of(kind, reason),
            "shares": [(name, shown_probability(p), p) for name, p in probabilities.items()],
            "files": [
                {"place": place, "words": words, "saved_as": _saved_as(job, name)} for place, name, words in shown
            ],
            "has_page": "page.html" in names,
            "is_short": "page.html" in names and kind not in (NO_RESULT, UNDECIDED),  # the page in it says the rest
            "findings": result.get("findings", []),
        }

    def studies(self, _: Request) -> Response:
        """The studies of the PACS, and what was sent of them."""
        pacs = self.service.pacs
        if pacs is None:
            raise RefusedError(404, "no-pacs", "the service works beside no PACS")
        sent: dict[str, dict[tuple[str, str], list[Any]]] = {}
        for one in pacs.deliveries():
            sent.setdefault(one.study, {}).setdefault((one.destination, one.state), []).append(one)
        studies = [
            {
                "about": one,
                "created": utc(one.created),
                "job": one.job[:_SHORT],
                **self._outcome(one.job),
                "deliveries": [
                    {"destination": place, "state": state, "count": len(each), "reason": each[0].reason}
                    for (place, state), each in sent.get(one.id, {}).items()
                ],
            }
            for one in pacs.studies()
        ]
        is_shadow = self.service.config.shadow
        return self.shown(
            "studies", "Studies of the PACS", studies=studies, is_shadow=is_shadow, sent_words=_SENT_WORDS
        )

    def _outcome(self, id: str) -> dict[str, str]:  # noqa: A002
        """How the job of a study ended, in words."""
        try:
            job = self.service.jobs[id]
        except KeyError:
            return {"kind": "", "result": ""}
        if job.state != "done":
            return {"kind": "", "result": ""}
        kind, decision = job.summary["outcome"], job.summary["decision"]
        words = {NO_RESULT: "no result, not negative", UNDECIDED: "undecided, not negative"}
        return {"kind": "unsure" if kind in words else "decided", "result": words.get(kind, f"Decision: {decision}")}

    def model(self, request: Request) -> Response:
        """The card of a model."""
        model = self.service.models.get(request.path_params["name"])
        if model is None:
            raise RefusedError(404, "no-model", "there is no such model")
        return self.shown("model", f"Model {model.name}", model=model.name, card=words_of(model))


def page_routes(service: Service, tokens: Tokens | None) -> list[Route]:
    """The routes of the pages.

    Args:
        service: The service.
        tokens: Who may ask; None: nobody has to log in.
    """
    pages = Pages(service, has_tokens=tokens is not None)

    def route(path: str, answer: Callable[[Request], Response]) -> Route:
        async def answered(request: Request) -> Response:
            request.state.route = path
            try:
                return await run_in_threadpool(answer, request)
            except RefusedError as exc:
                title = "This is not here" if exc.status in (404, 410) else "This cannot be done"
                detail = f"{exc.detail[:1].upper()}{exc.detail[1:]}."
                return pages.shown("refused", title, status=exc.status, detail=detail)

        return Route(path, answered)

    async def static(request: Request) -> Response:
        request.state.route = "/static/{name}"
        kind, content = _static(request.path_params["name"])
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return [
        route("/", pages.start),
        route("/jobs/{id}", pages.job),
        route("/models/{name}", pages.model),
        route("/studies", pages.studies),
        Route("/static/{name}", static),
        *login_routes(service.database, tokens, pages.shown),
    ]


def _static(name: str) -> tuple[str, str]:
    """Media type and content of a file."""
    if name not in _STATIC:
        raise RefusedError(404, "no-file", "there is no such file")
    kind, parts = _STATIC[name]
    return kind, _joined(parts)


@cache
def _joined(parts: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(files(package).joinpath(name).read_text(encoding="utf-8") for package, name in parts)


def _choice(model: ServedModel) -> dict[str, str]:
    """What the page of a new scan tells of a model."""
    classes = model.card.classes
    has_names = all(any(letter.isalpha() for letter in name) for name in classes)
    stated = model.card.training.get("statements", {})
    return {
        "name": model.name,
        "takes_point": "yes" if model.card.recipe.region == "point" else "",
        "has_names": "yes" if has_names else "",
        "classes": ", ".join(classes),
        "intended_use": stated.get("intended_use", ""),
    }


def _hours(hours: float) -> str:
    return f"{hours:g} hour" + "s" * (hours != 1)


def _took(job: Job) -> str:
    if job.started is None or job.ended is None or job.state != "done":
        return ""
    return f"{job.ended - job.started:.1f} s"


def _now(job: Job, place: int) -> str:
    """What happens to a job, before the page's script tells more."""
    if job.state != "queued":
        return "The service works on it."
    return f"{place} job{'s' * (place != 1)} come{'s' * (place == 1)} before this one." if place else "It is next."


def _saved_as(job: Job, name: str) -> str:
    """The name under which a browser saves a file; empty for what it shows."""
    return "" if not name or name.endswith(".html") else f"hilum-{job.id[:_SHORT]}-{name}"
