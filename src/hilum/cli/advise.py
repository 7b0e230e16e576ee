"""``hilum advise``: describes the classes of a table, and advises settings for rare ones."""

import json
import math
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hilum.cli.arguments import CohortPath
from hilum.settings.run import ColumnsConfig, SplitConfig

if TYPE_CHECKING:
    from hilum.planning.advise import Advice
    from hilum.planning.classes import ClassTable

_WIDTH = 100
_NAME = 24
_LABEL = 14


@dataclass(frozen=True, kw_only=True)
class Advise:
    """Class counts of a table, the precision that its patients allow, and advice for rare classes. Reads no scan."""

    table: CohortPath
    """CSV, Excel or Parquet with paths and labels."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns."""

    unlabelled: Annotated[Literal["error", "drop"], tyro.conf.arg(name="cohort.unlabelled")] = "error"
    """What to do with rows without a label."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Parts of the patients, where the table has no split."""

    recall_first: bool = False
    """Prefer sensitivity: a missed case is worse than a false alarm."""

    json: bool = False
    """One JSON object instead of text."""

    def run(self) -> int:
        """Read the table and print the advice."""
        from hilum.cohorts.table import Cohort
        from hilum.planning.advise import advise
        from hilum.settings.run import CohortConfig

        cohort = Cohort.read(self.table, CohortConfig(columns=self.columns, unlabelled=self.unlabelled))
        advice = advise(cohort, self.split, recall_first=self.recall_first)
        for warning in cohort.warnings:
            sys.stderr.write(f"{warning}\n")
        print(json.dumps(_as_dict(advice), indent=2) if self.json else _page(self.table, advice))
        return 0


def _as_dict(advice: "Advice") -> dict[str, Any]:
    """The advice as plain values; nan and infinity are None."""
    table = advice.table
    each = [asdict(row) | {key: _finite(getattr(row, key)) for key in ("auc_all", "auc_test")} for row in table.rows]
    return {
        "cases": table.num_cases,
        "patients": table.num_patients,
        "multi_label": table.multi_label,
        "classes": each,
        "rarest": table.rarest.rare,
        "share": table.rarest.share,
        "imbalance_ratio": _finite(table.ratio),
        "test_part": table.test_part,
        "warnings": list(advice.warnings),
        "config": advice.sections,
        "instead": _tversky(advice),
        "reasons": advice.reasons,
        "evidence": [asdict(one) | {"verdict": one.verdict} for one in advice.evidence],
    }


def _page(source: Path, advice: "Advice") -> str:
    import tomli_w

    from hilum.findings import printable

    table = advice.table
    counts = f"{table.num_cases:,} cases of {table.num_patients:,} patients, {len(table.rows)} {table.plural}"
    lines = [f"{source.name}: {counts}", "", *_classes(table), ""]
    lines += _paragraph("imbalance", _ratio(table))
    lines += _paragraph("sample size", table.sample_size())
    for warning in advice.warnings:
        lines += _paragraph("warning", warning)
    lines.append("")
    for what, reason in advice.reasons.items():
        lines += _paragraph(what, reason)
    for number, line in enumerate(_evidence(advice)):
        lines += _paragraph("" if number else "evidence", line)
    lines += ["", "In config.toml that is", "", *tomli_w.dumps(advice.sections).rstrip().split("\n")]
    if advice.alternative is not None:
        lines += ["", *textwrap.wrap(_INSTEAD, _WIDTH), "", *tomli_w.dumps({"loss": _tversky(advice)}).split("\n")]
    return "\n".join(printable(line) for line in lines).rstrip()


_INSTEAD = (
    "or, where training itself is to favour recall, with this loss, which counts a miss for more than a false alarm "
    "(Tversky with beta above alpha; Dice is Tversky with both alike)"
)


def _tversky(advice: "Advice") -> dict[str, Any] | None:
    loss = advice.alternative
    if loss is None:
        return None
    return {"name": loss.name, "tversky_alpha": loss.tversky_alpha, "tversky_beta": loss.tversky_beta}


def _classes(table: "ClassTable") -> Iterator[str]:
    """Lines of the class table: counts, shares, and the expected precision of each class's AUC against the rest."""
    from hilum.planning.classes import percent

    width = max(8, min(_NAME, max(len(row.name) for row in table.rows)))
    sampled = "   sampled" if table.multi_label else ""
    kind = f"{table.kind:<{width}}"
    yield f"{kind}  patients   share     cases   share{sampled}  AUC +-, all folds  test part"
    for row in table.rows:
        name = row.name if len(row.name) <= width else f"{row.name[: width - 3]}..."
        cells = [
            f"{name:<{width}}",
            f"{row.patients:>8,}",
            f"{percent(row.patients / table.num_patients):>6}",
            f"{row.cases:>8,}",
            f"{percent(row.cases / table.num_cases):>6}",
        ]
        cells += [f"{row.drawn:>8,}"] if row.drawn is not None else []
        yield "  ".join([*cells, f"{_half(row.auc_all):>17}", f"{_half(row.auc_test):>9}"])


def _ratio(table: "ClassTable") -> str:
    most = max(table.rows, key=lambda row: row.patients)
    least = min(reversed(table.rows), key=lambda row: row.patients)
    ratio = f"{table.ratio:.1f} to 1" if math.isfinite(table.ratio) else "no patient in the rarest"
    return f"{ratio}, patients of the commonest {table.kind} ({most.name}) to the rarest ({least.name})"


def _evidence(advice: "Advice") -> list[str]:
    """The evidence behind the advice, in sentences."""
    from hilum.planning.classes import percent

    near = advice.evidence
    share = percent(advice.table.rarest.share)
    if not near:
        return [f"none near {share}: this is the tutorial's rule of thumb and no more"]
    places = "; ".join(dict.fromkeys(one.place for one in near))
    lines = [f"AUC of {len(near)} methods beside cross entropy without weights, 95 %, measured {places}"]
    for verdict in ("better", "worse"):
        some = [str(one) for one in near if one.verdict == verdict]
        lines += [f"{verdict}: {'; '.join(some)}"] if some else []
    alike = sum(one.verdict == "cannot tell" for one in near)
    lines += [f"the interval of {alike} includes 0"] if alike else []
    return [*lines, f"of {len(near)} such intervals some may miss 0 by chance"] if len(near) > alike else lines


def _paragraph(label: str, text: str) -> list[str]:
    """Lines of a paragraph beside its label; a number and its unit stay on one line."""
    whole = re.sub(r" (?=%)|(?<=\+-) ", "\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(whole, _WIDTH, initial_indent=f"{label:<{_LABEL}}", subsequent_indent=" " * _LABEL)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _half(width: float) -> str:
    return "-" if math.isnan(width) else f"{width:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
