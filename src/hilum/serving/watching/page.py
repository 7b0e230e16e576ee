"""Writes what was watched as text and as one HTML page."""

from importlib.metadata import version

from hilum.drawing import BLUE, GREY, INK, ORANGE, empty_panels, label, svg
from hilum.pages import html_page
from hilum.serving.watching.watch import Share, Watched, WatchedFact, WatchedModel

MONITOR_MARK = 'name="generator" content="hilum monitor"'
"""Pattern that identifies pages of this command."""

_ROW_INCHES, _MARGIN_INCHES = 0.42, 1.1


def monitor_page(watched: Watched) -> str:
    """One HTML page, which needs no other file."""
    return html_page(
        "hilum.serving.watching", "monitor.html",
        generator="hilum monitor",
        title="What the service does",
        version=version("hilum"),
        watched=watched,
        span=_span(watched),
        share=share_words,
        number=_number,
        facts_plot=_facts_plot,
    )  # fmt: skip


def monitor_lines(watched: Watched) -> list[str]:
    """The same in a few lines."""
    lines = [f"{_span(watched)}; jobs: {_listed(watched.states) or 'none'}"]
    if watched.failures:
        lines.append(f"failed: {_listed(watched.failures)}")
    if watched.studies:
        lines.append(f"studies: {_listed(watched.studies)}")
    if watched.objects:
        lines.append(f"DICOM objects: {_listed(watched.objects)}")
    for model in watched.models:
        lines.append(f"model {model.name} ({model.digest[:8]}): {model.results} results, {_listed(model.decisions)}")
        lines.append(f"  no-result {share_words(model.no_result)}, undecided {share_words(model.undecided)}")
        if model.reasons:
            lines.append(f"  no-result because: {_listed(model.reasons)}")
        for one in model.outputs:
            if one.mean is not None:
                trained = "" if one.training is None else f", share in training {one.training:.3f}"
                lines.append(f"  P({one.name}): mean {one.mean:.3f} of {one.count} scans{trained}")
        lines += [_fact_line(fact) for fact in model.facts if fact.accepted is not None]
        if model.kernels:
            trained = f"; training: {', '.join(model.trained_kernels)}" if model.trained_kernels else ""
            lines.append(f"  kernels: {_listed(model.kernels)}{trained}")
        lines += [f"  look: {note}" for note in model.notes]
    return lines


def _fact_line(fact: WatchedFact) -> str:
    assert fact.accepted is not None  # noqa: S101
    assert fact.outside is not None  # noqa: S101
    low, high = fact.accepted
    seen = f"  {fact.words}: median {_number(fact.median)} {fact.unit}".rstrip()
    return f"{seen}, accepted {_number(low)} to {_number(high)}, outside {share_words(fact.outside)}"


def share_words(share: Share) -> str:
    """A share with its interval in words, such as ``0.20 (0.06 to 0.51)``."""
    low, high = share.interval
    return f"{share.value:.2f} ({low:.2f} to {high:.2f})"


def _span(watched: Watched) -> str:
    return f"the last {watched.days:g} days" if watched.days else "all records"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _number(value: float) -> str:
    return f"{value:.4g}"


def _facts_plot(model: WatchedModel, name: str) -> str:
    """Where the middle 90 % of scans lie in what is accepted, for each fact."""
    facts = [one for one in model.facts if one.accepted is not None and one.accepted[1] > one.accepted[0]]
    if not facts:
        return ""
    panels = empty_panels(inches=(7.2, _MARGIN_INCHES + _ROW_INCHES * len(facts)))
    axes = panels.axes[0]
    label(axes, title="Scans in what the gate accepts", x="0: lowest, 1: highest that is accepted", y="")
    axes.axvspan(0, 1, color=GREY, alpha=0.15, lw=0)
    for row, fact in enumerate(reversed(facts)):
        assert fact.accepted is not None  # noqa: S101
        low, high = fact.accepted
        left, right, middle = ((one - low) / (high - low) for one in (*fact.middle, fact.median))
        colour = ORANGE if fact.outside is not None and fact.outside.interval[0] > 0.1 else BLUE
        axes.plot([max(left, -0.5), min(right, 1.5)], [row, row], color=colour, lw=3, solid_capstyle="butt")
        axes.plot([min(max(middle, -0.5), 1.5)], [row], "o", color=INK, ms=5)
    axes.set_yticks(range(len(facts)), [one.words for one in reversed(facts)])
    axes.set_xlim(-0.55, 1.55)
    axes.set_ylim(-0.7, len(facts) - 0.3)
    return svg(panels, name=name, title="The middle 90 % of scans (line) and their median (dot) in what is accepted")
