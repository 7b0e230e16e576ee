"""Table 1 and the subgroups of a report; in a page that is shared, groups under ten cases are merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilum.drawing import Panels
from hilum.judging.figures import Evaluation, figures_in
from hilum.judging.report_plots import ForestRow, forest
from hilum.judging.report_words import NAMES, sortable
from hilum.judging.subgroups import FEWEST
from hilum.measuring.bootstrap import Figure

_LONGEST = 32
"""Letters of a name in a plot."""

_MOST_FOREST = 120
"""Largest number of rows of the forest plot; the table holds all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOne:
    """Table 1: names of the parts, and rows of texts."""

    parts: list[str]
    rows: list[tuple[str, list[str]]]


_PARTS = {"train": "Training", "val": "Validation", "test": "Test", "judged": "Judged"}


def table_one_rows(evaluation: Evaluation, is_shareable: bool) -> TableOne | None:
    """Table 1; in a page that is shared, groups under ten cases are merged."""
    about = (evaluation.get("cohort") or {}).get("table_one")
    if not about or not about["parts"]:
        return None
    parts: dict[str, Any] = about["parts"]
    rows = [
        ("Cases", [str(one["num_cases"]) for one in parts.values()]),
        ("Patients", [str(one["num_patients"]) for one in parts.values()]),
    ]
    for name in evaluation["classes"]:
        cells = [_share(one["by_class"][name], one["num_cases"]) for one in parts.values()]
        rows.append((f"Class {name}" if not evaluation.get("multi_label") else f"Label {name}", cells))
    for column, content in about["columns"].items():
        if "quartiles" in content:
            rows.append((column, [_median(content["quartiles"][part], content["missing"][part]) for part in parts]))
            continue
        totals = {part: one["num_cases"] for part, one in parts.items()}
        shown_groups = _grouped(content, list(parts)) if is_shareable else content
        hidden = {part: _hidden({g: counts[part] for g, counts in shown_groups.items()}) for part in parts}
        for group, counts in shown_groups.items():
            cells = [
                "–" if is_shareable and group in hidden[part] else _share(counts[part], totals[part]) for part in parts
            ]
            rows.append((f"{column}: {group}", cells))
    return TableOne(parts=[_PARTS[part] for part in parts], rows=rows)


def _grouped(content: Mapping[str, Mapping[str, int]], parts: Sequence[str]) -> dict[str, Mapping[str, int]]:
    """The groups of a column by part; those with fewer than ten cases in all are merged."""
    small = [group for group, counts in content.items() if sum(counts.values()) < FEWEST]
    kept = {group: counts for group, counts in content.items() if group not in small}
    if small:
        kept[_under_ten(len(small))] = {part: sum(content[group][part] for group in small) for part in parts}
    return kept


def _hidden(counts: Mapping[str, int]) -> set[str]:
    """Groups whose counts are not shown: those under ten, and the next one if they could be told from the total."""
    hidden = {group for group, count in counts.items() if 0 < count < FEWEST}
    if hidden and sum(counts[group] for group in hidden) < FEWEST:
        others = [group for group, count in counts.items() if count >= FEWEST]
        hidden |= {min(others, key=lambda group: counts[group])} if others else set()
    return hidden


def _under_ten(number: int) -> str:
    return f"{number} group{'s' * (number > 1)} under ten"


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.0%})" if total else str(count)


def _median(quartiles: Sequence[float] | None, missing: int) -> str:
    if quartiles is None:
        return "–"
    low, middle, high = (f"{value:.4g}" for value in quartiles)
    return f"{middle} ({low} to {high})" + (f", {missing} missing" if missing else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Subgroups for the page: heads and rows of their table, how many intervals it has, and the plot with its texts."""

    heads: list[str]
    rows: list[dict[str, Any]]
    num_intervals: int
    forest: tuple[Panels, str, str, str] | None


def merged_subgroups(evaluation: Evaluation, is_shareable: bool) -> Groups:
    """The subgroups; in a page that is shared, groups under ten cases of a column are merged to one line of counts."""
    of_two = not evaluation.get("multi_label") and len(evaluation["classes"]) == 2
    figures = ["auc", "sensitivity", "specificity"] if of_two else ["mean_auc"]
    heads = ["Column", "Group", "Cases", "Patients", *(["Positive"] if of_two else []), *(NAMES[f] for f in figures)]
    counts = ["num_cases", "num_patients", *(["num_positives"] if of_two else [])]
    rows: list[dict[str, Any]] = []
    plotted: list[ForestRow] = []
    for column, groups in evaluation["subgroups"].items():
        plotted.append(ForestRow(text=_shortened(column)))
        small = [one for one in groups if one["num_cases"] < FEWEST]
        named = [one for one in groups if one not in small or not is_shareable]
        if small and is_shareable:
            sums = {name: sum(one[name] for one in small) for name in counts}
            named.append({"group": _under_ten(len(small)), **sums})
        sizes = {one["group"]: one["num_cases"] for one in named}
        hidden_groups = _hidden(sizes) if is_shareable else set()
        for one in named:
            hidden = one["group"] in hidden_groups
            cells = [("", "–") if hidden else (str(one[name]), str(one[name])) for name in counts]
            has_figures = figures[0] in one
            cells += [sortable(one, name) if has_figures else ("", "–") for name in figures]
            rows.append({"column": column, "group": one["group"], "cells": cells})
            remark = "" if has_figures and one[figures[0]] is not None else _why(one, has_figures)
            name = _shortened(one["group"])
            text = name if hidden else f"{name} ({one['num_cases']})"
            plotted.append(ForestRow(text=text, figure=figures_in(one).get(figures[0]), remark=remark))
    if not rows:
        return Groups(heads=heads, rows=[], num_intervals=0, forest=None)
    name = "auc" if of_two else "macro_auc"
    whole = figures_in(evaluation).get(name, Figure(value=np.nan, low=np.nan, high=np.nan))
    panels = forest(plotted[:_MOST_FOREST], overall=whole, title="Subgroups", x=NAMES[figures[0]])
    more = (
        f"; the first {_MOST_FOREST} of {len(plotted)} rows, the table holds all" if len(plotted) > _MOST_FOREST else ""
    )
    caption = f"{NAMES[figures[0]]} by subgroup with 95 % intervals; dashed line and band: all cases{more}"
    number = sum(" to " in text for row in rows for _, text in row["cells"])
    return Groups(heads=heads, rows=rows, num_intervals=number, forest=(panels, "forest", caption, caption))


def _shortened(text: str) -> str:
    """A name for a plot, in which long ones would take the room of the figures."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _why(group: Mapping[str, Any], has_figures: bool) -> str:
    if not has_figures:
        return "too few cases"
    if "num_positives" not in group:
        return "not defined"
    return "no case is positive" if not group["num_positives"] else "every case is positive"
