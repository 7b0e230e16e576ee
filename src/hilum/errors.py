"""Every exception that Hilum raises on purpose.

HilumError                 base; the command line prints its text in one line and exits with 1
├── ReadError              a file or series cannot be read
│   └── GeometryError      slices do not form one volume, or a point lies outside it
├── PrepareError           a scan was read but cannot be prepared for the model
├── StoreError             a sample cannot be written: no case's fault, and so the end of the command
├── ConfigError            a setting is not allowed (also a ValueError)
├── CohortError            the table or a split is not usable
├── CheckpointError        a model folder is incomplete, damaged or does not fit
├── TrainingError          training cannot go on
└── ResourceError          memory does not suffice for what is to be computed
"""


class HilumError(Exception):
    """Base of all errors that a user can act on."""


class ReadError(HilumError):
    """A file or series cannot be read."""


class GeometryError(ReadError):
    """Slices do not form one volume, or a point lies outside it."""


class PrepareError(HilumError):
    """A scan was read but cannot be prepared for the model."""


class StoreError(HilumError):
    """A sample cannot be written: no case's fault, and so the end of the command."""


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
    """Raise a ConfigError that says what must be what, unless the rule holds."""
    if not rule:
        msg = f"{what} must be {must}, got {got}"
        raise ConfigError(msg)
