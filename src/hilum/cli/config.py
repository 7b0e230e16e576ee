"""``hilum config``: prints a config file with every setting explained."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class MakeConfig:
    """Print or write a commented TOML of every setting, at its default or as planned for a table of cases."""

    table: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A table of cases, for which the settings are planned as ``hilum train`` would."""

    out: Path | None = None
    """Write to a new file NAME.toml instead of the terminal."""

    def run(self) -> int:
        """Print or write the file."""
        from hilum.errors import require
        from hilum.files import write_whole
        from hilum.settings.document import commented_toml
        from hilum.settings.run import RunConfig
        from hilum.settings.toml import relative_to

        if self.out is not None:
            named = self.out.suffix.lower() == ".toml"  # hilum train takes any other name for a table
            require(named and not self.out.exists(), "--out", "a new file NAME.toml", self.out)
        config, lines = RunConfig(), []
        if self.table is not None:
            from hilum.cli.train import planned

            settings = replace(config, cohort=replace(config.cohort, table=str(self.table.absolute())))
            config, reasons, warnings = planned(settings)
            config = relative_to(config, self.out.parent if self.out else Path())
            lines = [f"# {line}" for line in (*reasons, *(f"warning: {warning}" for warning in warnings))]
        text = "\n".join([*lines, commented_toml(config)])
        if self.out is None:
            print(text, end="")
        else:
            write_whole(self.out, text)
            print(f"{self.out}: every setting, explained")
        return 0
