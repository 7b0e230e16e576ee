"""DICOM objects of a result, by highdicom: report, segmentation, maps and page."""

from hilum.errors import ConfigError

try:
    import highdicom  # noqa: F401
except ImportError as exc:
    _MSG = "DICOM objects need the package highdicom"
    raise ConfigError(_MSG, hint="pip install 'hilum[dicom]'") from exc
