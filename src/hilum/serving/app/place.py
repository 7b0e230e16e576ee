"""Where a service keeps its data unless told otherwise."""

import os
from pathlib import Path


def data_folder() -> Path:
    """The folder ``hilum/serve`` in XDG_STATE_HOME, or in ``~/.local/state``."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "hilum" / "serve"
