"""Describes the API by OpenAPI 3.1."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from hilum.serving.app.jobs import OUTPUTS

_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_STATES = ["queued", "running", "done", "failed", "cancelled"]

_JOB = {
    "type": "object",
    "required": ["id", "state", "model"],
    "properties": {
        "id": _ID,
        "state": {"enum": _STATES},
        "step": {"type": "string", "description": "reading, preparing, predicting or writing, while it runs"},
        "model": {"type": "string"},
        "origin": {"type": "string", "description": "upload, or the name of a PACS"},
        "outputs": {"type": "array", "items": {"enum": list(OUTPUTS)}},
        "num_bytes": {"type": "integer"},
        "place": {"type": ["integer", "null"], "description": "how many jobs come before a queued one"},
        "code": {"type": "string", "description": "why it failed, for programs"},
        "reason": {"type": "string", "description": "why it failed, in words"},
        "created": _TEXT_OR_NULL,
        "started": _TEXT_OR_NULL,
        "ended": _TEXT_OR_NULL,
        "expired": {"type": "boolean", "description": "whether its result was removed"},
        "decision": _TEXT_OR_NULL,
        "outcome": {"enum": ["decided", "undecided", "no-result", None]},
        "files": {"type": "array", "items": {"type": "string"}},
        "seconds": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}
_RESULT = {
    "type": "object",
    "required": ["format", "model", "probabilities", "decision", "outcome"],
    "properties": {
        "format": {"type": "integer"},
        "model": {"type": "object"},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        "decision": {"type": "string", "description": "no-result and undecided are not negative"},
        "outcome": {"enum": ["decided", "undecided", "no-result"]},
        "reason_codes": {"type": "array", "items": {"type": "string"}},
        "reason": {"type": "string"},
        "thresholds": {"type": "object"},
        "sets": {"type": "object"},
        "spread": {"type": "object", "additionalProperties": _NUMBER_OR_NULL},
        "findings": {"type": "array", "items": {"type": "object"}},
        "geometry": {"type": "object"},
        "files": {"type": "array", "items": {"type": "string"}},
        "dicom": {"type": "object", "description": "SOPInstanceUID by file"},
        "seconds": {"type": "object"},
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["status", "code", "detail"],
    "properties": {"status": {"type": "integer"}, "code": {"type": "string"}, "detail": {"type": "string"}},
}
_ANY_OBJECT = {"type": "object"}

_PROBLEMS = {
    400: "The Host or the body breaks the rules",
    401: "A token must be given",
    403: "The page that asks is of another origin",
    404: "There is no such thing",
    408: "The body came too slowly",
    409: "The state of the job does not allow it",
    410: "It was removed",
    413: "The body is too large, or has too many parts",
    422: "A parameter is not allowed",
    429: "The queue is full, or too many uploads are under way",
    503: "Not ready yet",
    507: "The disk has no room",
}


def description(models: Sequence[str]) -> dict[str, Any]:
    """The API as OpenAPI.

    Args:
        models: Names of the models that are served.
    """
    job = {"id": _in_path("id", _ID)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hilum",
            "version": version("hilum"),
            "description": "Chest CT scans in, predictions of a 3D ResNet out. Not a medical device.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/predictions": {"post": _submission(models)},
            "/v1/jobs": {
                "get": _operation("List jobs, the newest first", 200, _ANY_OBJECT, 422,
                                  parameters=_list_part({"enum": _STATES}))
            },
            "/v1/jobs/{id}": {
                "get": _operation("Show a job", 200, _JOB, 404, 410, 422, parameters=[job["id"], _in_query(
                    "wait", {"type": "integer", "minimum": 0, "maximum": 30},
                    "seconds to wait for another state or step",
                )]),
                "delete": _operation("Delete a job that has ended, and its result", 204, None, 404, 409, 410,
                                     parameters=[job["id"]]),
            },
            "/v1/jobs/{id}/cancel": {
                "post": _operation("Cancel a job", 200, _JOB, 404, 409, 410, parameters=[job["id"]])
            },
            "/v1/jobs/{id}/result": {
                "get": _operation("The result", 200, _RESULT, 404, 409, 410, parameters=[job["id"]])
            },
            "/v1/jobs/{id}/files/{name}": {
                "get": _operation("A file of the result", 200, None, 404, 409, 410, parameters=[
                    job["id"], _in_path("name", {"type": "string"}),
                ])
            },
            **_others(),
            "/healthz": {"get": _operation("Whether the service lives", 200, _ANY_OBJECT, 422)},
            "/readyz": {"get": _operation("Whether it works", 200, _ANY_OBJECT, 422, 503)},
            "/metrics": {"get": _operation("Figures for Prometheus", 200, None)},
            "/openapi.json": {"get": _operation("This description", 200, _ANY_OBJECT, 422)},
        },
    }  # fmt: skip


def _others() -> dict[str, Any]:
    """Paths of models, studies and PACS."""
    return {
        "/v1/models": {"get": _operation("List models", 200, _ANY_OBJECT, 422)},
        "/v1/models/{name}": {
            "get": _operation("The card of a model", 200, _ANY_OBJECT, 404, 422,
                              parameters=[_in_path("name", {"type": "string"})])
        },
        "/v1/studies": {
            "get": _operation("List studies of a PACS, by hashes", 200, _ANY_OBJECT, 404, 422,
                              parameters=_list_part({"type": "string"}))
        },
        "/v1/studies/{id}/send-again": {
            "post": _operation("Send again what was given up", 202, _ANY_OBJECT, 404, 409, 422,
                               parameters=[_in_path("id", {"type": "string"})])
        },
        "/v1/studies/{id}/predict-again": {
            "post": _operation("Predict a study that has ended once more", 202, _ANY_OBJECT, 404, 409, 422,
                               parameters=[_in_path("id", {"type": "string"})])
        },
        "/v1/deliveries": {
            "get": _operation("List the objects of results that are or were to be sent", 200, _ANY_OBJECT, 404, 422,
                              parameters=_list_part({"type": "string"}))
        },
        "/v1/pacs/{name}": {
            "post": _operation(
                "Tell of a study in a PACS", 202, _ANY_OBJECT, 404, 413, 422,
                parameters=[_in_path("name", {"type": "string"})],
                body={"application/json": {"type": "object", "required": ["study_uid"], "properties": {
                    "study_uid": {"type": "string", "pattern": "^[0-9.]{1,64}$"}}}},
            )
        },
    }  # fmt: skip


def _submission(models: Sequence[str]) -> dict[str, Any]:
    point = r"^-?\d{1,6}(\.\d{1,6})?(,-?\d{1,6}(\.\d{1,6})?){2}$"
    binary = {"type": "string", "format": "binary"}
    return _operation(
        "Predict a scan", 202, _JOB, 400, 408, 413, 422, 429, 507,
        parameters=[
            _in_query("model", {"enum": list(models)}, "may be left out where there is one"),
            _in_query("outputs", {"type": "string"}, f"of {', '.join(OUTPUTS)}, with commas between"),
            _in_query("point", {"type": "string", "pattern": point}, "x,y,z in LPS mm, for models of region point"),
            _in_query("series", {"type": "string", "pattern": r"^[\w.-]{0,80}$"}, "a UID, a hash or a rule"),
        ],
        body={
            "application/zip": binary,
            "application/x-tar": binary,
            "application/dicom": binary,
            "application/octet-stream": binary,
            "multipart/form-data": {
                "type": "object", "properties": {"files": {"type": "array", "items": binary}},
            },
        },
    )  # fmt: skip


def _operation(
    summary: str,
    status: int,
    schema: dict[str, Any] | None,
    *problems: int,
    parameters: Sequence[dict[str, Any]] = (),
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done"}
    if schema is not None:
        done["content"] = {"application/json": {"schema": schema}}
    refused = {
        str(code): {
            "description": _PROBLEMS[code], "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
        for code in sorted({400, 401, 403, *problems})
    }  # fmt: skip
    about: dict[str, Any] = {
        "summary": summary, "parameters": list(parameters), "responses": {str(status): done, **refused},
    }  # fmt: skip
    if body is not None:
        content = {kind: {"schema": one} for kind, one in body.items()}
        about["requestBody"] = {"required": True, "content": content}
    return about


def _list_part(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters of a list."""
    return [
        _in_query("state", state),
        _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 500}),
        _in_query("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}),
    ]


def _in_path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(name: str, schema: dict[str, Any], what: str = "") -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": what}
