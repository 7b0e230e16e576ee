"""Turns logits into probabilities and decisions: one of several classes, or several labels at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float64, Int

from hilum.cohorts.cells import AND, NO_RESULT, NOTHING, UNDECIDED, names_of_none
from hilum.cohorts.labels import Labels
from hilum.errors import require
from hilum.measuring.abstaining import Band, ConformalSets
from hilum.measuring.calibration import Calibration
from hilum.measuring.operating_points import OperatingPoint
from hilum.measuring.prevalence import Shares, threshold_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Calibration and threshold of a set of classes, or of one label of a multi-label model.

    Attributes:
        calibration: Calibration of the logits; a label has the logits 0 and z.
        threshold: Smallest probability of the second class, or of a label, that is positive; None: most probable class.
        rule: Sentence that describes how the threshold was chosen.
        operating_points: Further thresholds that were chosen on the same cases; they decide nothing.
        band: Where a case is undecided; None: nowhere.
        sets: Conformal sets; a case whose set does not hold one class is undecided. None: there are none.
        abstains: Why there is neither, where one was asked for; else what there is, in a sentence.
    """

    calibration: Calibration = field(default_factory=Calibration)
    threshold: float | None = None
    rule: str = ""
    operating_points: tuple[OperatingPoint, ...] = ()
    band: Band | None = None
    sets: ConformalSets | None = None
    abstains: str = ""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            require(0 <= self.threshold <= 1, "threshold", "between 0 and 1", self.threshold)
        if self.band is not None:
            at, low, high = self.threshold, self.band.low, self.band.high
            right = at is not None and low <= at <= max(high, math.nextafter(high, 1))
            require(right, "a band", f"one that holds the threshold {at}", (low, high))
            require(self.sets is None, "a decision", "with a band or sets", "both")

    def decided(self, probs: Float[np.ndarray, "n c"], *, default: float | None = None) -> Int[np.ndarray, " n"]:
        """Decided class of cases of these probabilities of the classes, or of absent and present; -1: undecided.

        Args:
            probs: Probabilities.
            default: The threshold where none was chosen; None: the most probable class.
        """
        if self.sets is not None:
            members = self.sets.members(probs)
            return np.where(members.sum(axis=1) == 1, members.argmax(axis=1), -1)
        cut = default if self.threshold is None else self.threshold
        chosen = np.asarray(probs.argmax(axis=1) if cut is None else probs[:, 1] >= cut, np.int64)
        return chosen if self.band is None else np.where(self.band.holds(probs[:, 1]), -1, chosen)

    def at(self, prevalence: Shares) -> "Decision":
        """Adjust probabilities to another prevalence.

        Threshold, band and sets are adjusted with them; of more than two classes the most probable one may change.

        Raises:
            ConfigError: If the prevalence of the calibration is unknown, a share is 0, or conformal sets are of more
                than two classes, where they cannot be adjusted.
        """
        known, why = bool(self.calibration.prevalence), f"unknown (calibration: {self.calibration.rule})"
        require(known, "the prevalence that the probabilities stand for", "known", why)
        moved = self.calibration.at(prevalence)
        if self.threshold is None:
            single = self.sets is None
            require(single, "a stated prevalence", "absent for a model with conformal sets of several classes", "one")
            return replace(self, calibration=moved)

        def there(threshold: float) -> float:
            return threshold_at(threshold, of=self.calibration.prevalence, to=prevalence)

        points = tuple(
            one if one.threshold is None else replace(one, threshold=there(one.threshold))
            for one in self.operating_points
        )
        band, sets, at = self.band, self.sets, there(self.threshold)
        if band is not None:  # rounding must not move an end beyond the threshold
            above = max(there(band.high), at) if band.high >= self.threshold else math.nextafter(at, 0)
            band = replace(band, low=min(there(band.low), at), high=above)
        if sets is not None:
            absent, present = sets.least
            sets = replace(sets, least=(1 - there(1 - absent), there(present)))
        return replace(
            self,
            calibration=moved,
            threshold=at,
            rule=f"{self.rule}; moved from {self.threshold:.3g} with the prevalence".removeprefix("; "),
            operating_points=points,
            band=band,
            sets=sets,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The decisions of a model.

    Attributes:
        classes: Names of the outputs, in order.
        multi_label: Whether they are labels that do not exclude one another.
        each: One decision for all classes, or one for each label.
    """

    classes: tuple[str, ...]
    multi_label: bool = False
    each: tuple[Decision, ...] = (Decision(),)

    def __post_init__(self) -> None:
        require(len(self.classes) >= 2, "classes", "at least two", self.classes)
        require(len(set(self.classes)) == len(self.classes), "classes", "distinct", self.classes)
        needed = len(self.classes) if self.multi_label else 1
        require(len(self.each) == needed, "decisions", f"{needed} for these classes", len(self.each))
        single = self.multi_label or len(self.classes) == 2 or self.each[0].threshold is None
        require(single, "threshold", "absent for more than two classes", self.each[0].threshold)
        sizes = [one.calibration.num_classes for one in self.each]
        wanted = 2 if self.multi_label else len(self.classes)
        require(set(sizes) <= {None, wanted}, "calibration", f"of {wanted} classes", sizes)
        lengths = {len(one.sets.least) for one in self.each if one.sets is not None}
        require(lengths <= {wanted}, "conformal sets", f"of {wanted} classes", lengths)
        words = names_of_none(self.classes)
        require(not words, "classes", f"other words than {NO_RESULT} and {UNDECIDED}, which are none", ", ".join(words))

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds by the name of the second class, or of each label."""
        names = self.classes if self.multi_label else self.classes[1:2]
        pairs = zip(names, self.each, strict=True)
        return {name: one.threshold for name, one in pairs if one.threshold is not None}

    @property
    def cuts(self) -> dict[str, Decision]:
        """The decisions with a threshold, but those by conformal sets, by the second class or label."""
        names = self.classes if self.multi_label else self.classes[1:2]
        pairs = zip(names, self.each, strict=True)
        return {name: one for name, one in pairs if one.threshold is not None and one.sets is None}

    def probabilities(self, logits: Float[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c"]:
        """Calibrated probabilities; rows sum to 1 unless multi-label."""
        if not self.multi_label:
            return self.each[0].calibration.probabilities(logits)
        columns = [
            one.calibration.probabilities(z)[:, 1] for one, z in zip(self.each, label_logits(logits), strict=True)
        ]
        return np.stack(columns, axis=1)

    def decided(self, probs: Float[np.ndarray, "n c"]) -> Labels:
        """Decided class of each case, (n,); multi-label: 1 where a label is called, else 0, (n, c); -1: undecided."""
        if not self.multi_label:
            return self.each[0].decided(probs).astype(np.int64)
        pairs = (np.stack([1 - p, p], axis=1) for p in probs.T)
        each = [one.decided(pair, default=0.5) for one, pair in zip(self.each, pairs, strict=True)]
        return np.stack(each, axis=1).astype(np.int64)

    def described(self, decided: Labels) -> list[str]:
        """The decision of each case as text: its class, or the called labels, and those that are undecided."""
        if not self.multi_label:
            return [self.classes[k] if k >= 0 else UNDECIDED for k in decided.tolist()]
        return [self._labels_of(row) for row in decided.tolist()]

    def _labels_of(self, row: list[int]) -> str:
        called, undecided = (
            AND.join(name for name, state in zip(self.classes, row, strict=True) if state == wanted)
            for wanted in (1, -1)
        )
        if not undecided:
            return called or NOTHING
        return "; ".join(filter(None, [called, f"{UNDECIDED}: {undecided}"])) if 0 in row or called else UNDECIDED

    def sets_of(self, probs: Float[np.ndarray, " c"]) -> dict[str, tuple[str, ...]]:
        """Conformal sets of a case: of ``classes``, or of absent and present by label; empty where none are fitted."""
        found = {}
        for n, one in enumerate(self.each):
            if one.sets is not None:
                own = np.array([1 - probs[n], probs[n]]) if self.multi_label else probs
                names = ("absent", "present") if self.multi_label else self.classes
                inside = one.sets.members(own[None])[0].tolist()
                key = self.classes[n] if self.multi_label else "classes"
                found[key] = tuple(name for name, is_in in zip(names, inside, strict=True) if is_in)
        return found

    def at(self, prevalence: Sequence[float]) -> "Decisions":
        """Adjust probabilities to another prevalence.

        Args:
            prevalence: Share of the second of two classes; a share for each of more classes; or one for each label.

        Raises:
            ConfigError: If the number of values is wrong, or a share is not between 0 and 1.
        """
        pairs = self.multi_label or len(self.classes) == 2
        needed = len(self.classes) if self.multi_label or not pairs else 1
        require(len(prevalence) == needed, "prevalence", f"{needed} share{'s' * (needed > 1)}", len(prevalence))
        for share in prevalence:
            require(0 < share < 1, "prevalence", "above 0 and below 1", share)
        stated = [(1 - share, share) for share in prevalence] if pairs else [tuple(prevalence)]
        return replace(self, each=tuple(one.at(shares) for one, shares in zip(self.each, stated, strict=True)))


def label_logits(logits: Float[np.ndarray, "n c"]) -> list[Float64[np.ndarray, "n 2"]]:
    """Logits of each label as two classes, absent and present."""
    wide = logits.astype(np.float64)
    return [np.stack([np.zeros(len(wide)), column], axis=1) for column in wide.T]
