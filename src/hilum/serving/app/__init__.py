"""The service: takes scans over HTTP, keeps them in a queue that outlives crashes, and answers with results."""

from hilum.errors import ConfigError

try:
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as exc:
    _MSG = "the service needs the packages starlette, uvicorn, python-multipart and prometheus-client"
    raise ConfigError(_MSG, hint="pip install 'hilum[serve]'") from exc
