"""The service's log: one JSON object a line, with codes and ids of its own, and nothing that came from a client."""

import json
import logging
import sys
import time
from typing import Any

LINE_FIELDS = (
    "job", "study", "code", "state", "of", "who", "route", "method", "status", "ms", "port", "count", "seconds", "pid",
)  # fmt: skip
"""What a line may tell beside time, level and event; anything else is left out."""

_FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "multipart", "python_multipart")
"""Loggers of libraries, whose lines may quote what a client sent."""


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON: its message is the name of an event."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in LINE_FIELDS if hasattr(record, name)}
        return json.dumps(line, ensure_ascii=True)


def log_as_json() -> None:
    """Write the service's log to stderr, and silence those of libraries."""
    logger = logging.getLogger("hilum.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
