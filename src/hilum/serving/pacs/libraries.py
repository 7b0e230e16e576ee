"""Names a missing library, and silences those that log names, UIDs, AE titles and URLs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hilum.errors import ConfigError

_LOGGERS = ("pynetdicom", "dicomweb_client", "urllib3", "requests", "pydicom", "highdicom")


@contextmanager
def needed(package: str) -> Iterator[None]:
    """A context whose imports need a package of the extra ``dicom``.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        yield
    except ImportError as exc:
        msg = f"a PACS in the config needs the package {package}"
        raise ConfigError(msg, hint="pip install 'hilum[dicom]'") from exc


def quiet_libraries() -> None:
    """Silence the libraries in this process, whose lines and warnings quote values."""
    for name in _LOGGERS:
        one = logging.getLogger(name)
        one.setLevel(logging.CRITICAL + 1)
        one.propagate = False
    warnings.filterwarnings("ignore", module=r"(pynetdicom|dicomweb_client|urllib3|pydicom|highdicom)\b")
