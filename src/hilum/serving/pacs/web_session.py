"""A client of DICOMweb: bounded in time and size, without redirects, proxies and tokens of the environment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from requests.auth import AuthBase
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, SSLError

from hilum.errors import ConfigError, HilumError
from hilum.files import user_path
from hilum.serving.pacs.destination import UnreachableError
from hilum.settings.serving import DestinationConfig, WebSourceConfig

_CONNECT_S, _READ_S = 10.0, 120.0
_MOST_JSON = 1 << 26
_CHUNK = 1 << 20


class TooLargeError(Exception):
    """An answer is larger than it may be."""


class _Token(AuthBase):
    """A bearer token, read anew for each request: it may have been renewed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._file.read_text().strip()}"
        return request


class _Session(requests.Session):
    """A session whose answers are bounded, and which follows no redirect: its answer could lead anywhere."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.trust_env = False
        self._most = most_bytes

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        is_stream = kwargs.pop("stream", False)
        response = super().send(request, stream=True, **kwargs)
        if response.is_redirect:
            response.close()
            msg = "a redirect"
            raise requests.ConnectionError(msg)
        plain = response.iter_content

        def bounded(chunk_size: int | None = _CHUNK, decode_unicode: bool = False) -> Iterator[Any]:
            left = self._most if is_stream else _MOST_JSON
            for chunk in plain(chunk_size or _CHUNK):
                left -= len(chunk)
                if left < 0:
                    response.close()
                    raise TooLargeError
                yield chunk

        response.iter_content = bounded  # type: ignore[method-assign]
        if not is_stream:
            response._content = b"".join(bounded())
            response._content_consumed = True
        return response


def web_client(config: WebSourceConfig | DestinationConfig, *, most_bytes: int) -> DICOMwebClient:
    """A client for a source or a destination.

    Args:
        config: The source or destination.
        most_bytes: Most bytes of an answer with instances.

    Raises:
        ConfigError: If the token cannot be read.
    """
    session = _Session(most_bytes)
    if config.token_file:
        file = user_path(config.token_file)
        try:
            file.read_text()
        except (OSError, UnicodeDecodeError) as exc:
            msg = f"token_file of {config.name} cannot be read"
            raise ConfigError(msg) from exc
        session.auth = _Token(file)
    tls = config.tls
    if tls.authorities:
        session.verify = str(user_path(tls.authorities))
    if tls.certificate:
        session.cert = (str(user_path(tls.certificate)), str(user_path(tls.key)))
    url = config.url.rstrip("/")
    client = DICOMwebClient(url, session=session, timeout=(_CONNECT_S, _READ_S), permissive_uid=True)
    client.set_http_retry_params(retry=False)
    client.set_chunk_size(_CHUNK)
    return client


@contextmanager
def reaching() -> Iterator[None]:
    """A context whose failures to reach the other side, or to understand it, are an ``UnreachableError``.

    Raises:
        UnreachableError: Without the text of its cause, which quotes URLs. It has no code if no connection can be
            made: then nothing else that is asked would be answered either.
    """
    try:
        yield
    except (HilumError, TooLargeError):
        raise
    except requests.HTTPError as exc:
        status = exc.response.status_code if exc.response is not None else 0
        msg = f"the other side answers with status {status}"
        raise UnreachableError(msg, code=str(status)) from exc
    except requests.JSONDecodeError as exc:
        raise _not_understood() from exc
    except (requests.RequestException, OSError) as exc:
        if _is_away(exc):
            raise UnreachableError from exc
        msg = "the other side ends the connection, or does not answer in time"
        raise UnreachableError(msg, code="cut") from exc
    except Exception as exc:  # what DICOM, JSON and compression that are damaged raise is of many kinds
        raise _not_understood() from exc


def _not_understood() -> UnreachableError:
    return UnreachableError("the other side's answer cannot be understood", code="answer")


def _is_away(exc: Exception) -> bool:
    """Whether no connection was made; one that breaks, or an answer that does not come, may be that request's fault."""
    reason = getattr(exc.args[0] if exc.args else None, "reason", None)
    is_local = not isinstance(exc, requests.RequestException)  # the token cannot be read
    return is_local or isinstance(reason, (NewConnectionError, ConnectTimeoutError, SSLError))
