"""``hilum monitor``: shows what a service does, by its data base."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Show what a service does: jobs, refusals, shares without a decision, and drift from training.

    Reads the service's data base, also while it runs. Shows no names, ids or UIDs.
    """

    data: Path | None = None
    """The data folder of the service; by default that of hilum serve."""

    days: float = 0.0
    """Days to look back; 0: all records."""

    out: Path | None = None
    """HTML file to write; an earlier page of this command is replaced."""

    json: bool = False
    """Print one JSON object instead of a few lines."""

    def run(self) -> int:
        """Print, and write the page."""
        from hilum.errors import require
        from hilum.files import check_output, check_place, user_path, write_whole
        from hilum.serving.app.database import DATABASE
        from hilum.serving.app.place import data_folder
        from hilum.serving.watching.page import MONITOR_MARK, monitor_lines, monitor_page
        from hilum.serving.watching.watch import watch_file

        require(self.days >= 0, "--days", "at least 0", self.days)
        out = None if self.out is None else user_path(self.out)
        if out is not None:
            check_place(out, "a page")
            check_output(out, MONITOR_MARK)
        watched = watch_file((self.data or data_folder()) / DATABASE, days=self.days)
        if self.json:
            print(json.dumps(asdict(watched), indent=2))
        else:
            print("\n".join(monitor_lines(watched)))
        if out is not None:
            write_whole(out, monitor_page(watched), mark=MONITOR_MARK)
            if not self.json:
                print(f"page: {out}")
        return 0
