"""Every exception that Hilum raises on purpose.

HilumError                 base; the command line prints its text in one line and exits with 1
├── ReadError              a file or series cannot be read
│   └── GeometryError      slices do not form one volume, or a point lies outside it
├── PrepareError           a scan was read but cannot be prepared for the model
├── StoreError             a sample cannot be written: not the fault of a case, so the command ends
├── ConfigError            a setting is not allowed (also a ValueError)
├── CohortError            the table or a split is not usable
├── CheckpointError        a model folder is incomplete, damaged or does not fit
├── TrainingError          training cannot go on
└── ResourceError          memory does not suffice for what is to be computed
"""

from pathlib import Path


class HilumError(Exception):
    """Base of all errors that a user can act on; prints as ``PATH: message (hint)``, as far as these are given.

    Attributes:
        message: The rule and the value that breaks it; without the path.
        path: The file or folder at fault, so that a caller can name it relative to another one.
        code: Code of the finding behind the error, a key of ``findings.POLICY``.
        hint: What the user can do.
    """

    def __init__(
        self, message: str = "", *, path: Path | str | None = None, code: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = Path(path) if path is not None else None
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        return self.text(self.path)

    def text(self, path: Path | str | None) -> str:
        """The full text with another spelling of the path, such as relative to a table; None: without a path."""
        return (f"{path}: " if path is not None else "") + self.message + (f" ({self.hint})" if self.hint else "")


class ReadError(HilumError):
    """A file or series cannot be read."""


class GeometryError(ReadError):
    """Slices do not form one volume, or a point lies outside it."""


class PrepareError(HilumError):
    """A scan was read but cannot be prepared for the model."""


class StoreError(HilumError):
    """A sample cannot be written: not the fault of a case, so the command ends."""


class ConfigError(HilumError, ValueError):
    """A setting is not allowed."""


class CohortError(HilumError):
    """The table or a split is not usable."""


class CheckpointError(HilumError):
    """A model folder is incomplete, damaged or does not fit."""


class TrainingError(HilumError):
    """Training cannot go on."""


class ResourceError(HilumError):
    """Memory does not suffice for what is to be computed."""


def require(rule: bool, what: str, must: str, got: object) -> None:
    """Raise a ConfigError with the setting, what it must be and its value, unless the rule holds."""
    if not rule:
        msg = f"{what} must be {must}, got {got}"
        raise ConfigError(msg)
