"""Predicts scans with a model folder."""

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from hilum.arrays import ArrayLike
from hilum.cohorts.cells import NO_RESULT
from hilum.cohorts.dataset import as_sample
from hilum.deciding.facts import facts_of, kernel_of
from hilum.deciding.features import CaseOutputs, case_outputs
from hilum.deciding.gate import mean_distance
from hilum.deciding.model_folder import load_model, load_statistics, model_digest
from hilum.deciding.outcome import DECIDED, Outcome, outcome_of
from hilum.errors import CheckpointError, require
from hilum.files import user_path
from hilum.findings import Finding, as_records
from hilum.modelling.device import pick_device
from hilum.modelling.ensemble import Ensemble
from hilum.modelling.memory import within_memory
from hilum.modelling.speed import EXACT, choose_speed, for_prediction
from hilum.pages import PLANES_CAPTION, notebook_card
from hilum.predicting.prepare_scan import prepare_scan
from hilum.settings.recipe import Recipe
from hilum.settings.run import SpeedConfig
from hilum.volume import Volume

_log = logging.getLogger("hilum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Prediction for one scan.

    Attributes:
        probabilities: By class name; they sum to 1 unless multi-label.
        decision: A class name, the called labels (joined by " + ", or ``no finding``); ``no-result`` for a scan
            that the model does not answer for, ``undecided`` where it does not know: neither is negative.
        outcome: Whether there is a decision, and why not, in codes and in words.
        thresholds: Threshold of the second of two classes, or of each label.
        sets: Conformal sets of classes, or of ``absent`` and ``present`` by label; empty without them.
        spread: Standard deviation of the probabilities over the members of an ensemble, by class name; it is no
            probability. Empty for one network.
        findings: Findings of reading, preparing and the gate.
        geometry: Box of the model's input, in LPS mm, and its grid.
        sample: What the model saw, for pictures, kept by ``Predictor.predict`` alone.
    """

    probabilities: dict[str, float]
    decision: str
    outcome: Outcome = field(default_factory=Outcome)
    thresholds: dict[str, float] = field(default_factory=dict)
    sets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    geometry: dict[str, Any] = field(default_factory=dict)
    sample: Volume | None = field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """The decision, probabilities with thresholds, planes of what the model saw and findings, for notebooks."""
        facts = [f"because {self.outcome.reason}"] if self.outcome.reason else []
        if self.outcome.kind != DECIDED:
            facts.append("This is not a negative result.")
        return notebook_card(
            f"Decision: {self.decision}",
            facts=facts,
            planes=() if self.sample is None else self.sample.pictures(),
            caption=f"what the model saw: {PLANES_CAPTION}",
            probabilities={} if self.outcome.kind == NO_RESULT else self.probabilities,
            thresholds=self.thresholds,
            findings=self.findings,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "probabilities": self.probabilities,
            "decision": self.decision,
            "outcome": self.outcome.kind,
            "reason_codes": list(self.outcome.codes),
            "reason": self.outcome.reason,
            "thresholds": self.thresholds,
            "sets": {name: list(members) for name, members in self.sets.items()},
            "spread": self.spread,
            "findings": as_records(self.findings),
            "geometry": self.geometry,
        }


class Predictor:
    """Loads a model folder once and predicts many scans.

    Args:
        folder: A model folder, or the run folder around it.
        device: Device of the network; see ``pick_device``.
        precision: fp32 gives the same digits everywhere; bf16 is faster where the hardware has it, and differs in the
            third digit of a logit; auto measures which is faster, and caches the result.
        prevalence: Prevalence to which probabilities are adjusted, from that of the calibration; decisions by
            thresholds do not change. One share, or one for each label or class.

    Attributes:
        card: Content of ``model.json``.
        folder: The folder.
        device: Device of the network.
        network: The network or ensemble, for prediction.
        statistics: Of the features of each member, for the gate; empty where features are not judged.

    Raises:
        CheckpointError: If the folder is not a complete model folder.
        ResourceError: If memory does not suffice.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        precision: Literal["fp32", "bf16", "auto"] = "fp32",
        prevalence: Sequence[float] | None = None,
    ) -> None:
        require(precision in ("fp32", "bf16", "auto"), "precision", "fp32, bf16 or auto", repr(precision))
        self.device, self.folder = pick_device(device), user_path(folder)
        with self.within_memory(f"loading {folder}"):
            network, self.card = load_model(self.folder)
            self.statistics = load_statistics(self.folder, self.card)
            if prevalence is not None:
                self.card = replace(self.card, decisions=self.card.decisions.at(prevalence))
            speed = EXACT
            if precision != "fp32":
                shape = (1, network.in_channels, *self.card.recipe.size)
                one = next(iter(network.members.values())) if isinstance(network, Ensemble) else network
                chosen = choose_speed(one, shape, SpeedConfig(precision=precision), self.device, training=False)
                _log.info("%s", chosen.line)
                speed = chosen.speed
            self.network = for_prediction(network.to(self.device), speed)

    @property
    def digest(self) -> str:
        """SHA-256 of the model folder, see ``model_digest``."""
        return model_digest(self.folder)

    def named(self, names: Sequence[str]) -> "Predictor":
        """The same with other names of the outputs, as where the labels of training were numbers.

        Args:
            names: A name for each output, in the model's order; none: the model's own.

        Raises:
            ConfigError: If there are fewer or more names than outputs, or two are equal.
        """
        if not names:
            return self
        one, decisions = copy.copy(self), self.card.decisions
        require(len(names) == len(decisions.classes), "--names", f"{len(decisions.classes)}", len(names))
        one.card = replace(self.card, decisions=replace(decisions, classes=tuple(names)))
        return one

    def of_members(self, names: Sequence[str]) -> "Predictor":
        """The same with some members of an ensemble alone, without its gate; calibration stays the ensemble's.

        Args:
            names: Names of the members; one at least.
        """
        one = copy.copy(self)
        if isinstance(self.network, Ensemble):
            one.network = Ensemble({name: self.network.members[name] for name in names}).eval()
        kept = tuple(member for member in self.card.members if member.name in names)
        one.card, one.statistics = replace(self.card, members=kept, gate=None), ()
        return one

    def within_memory(self, doing: str) -> AbstractContextManager[None]:
        """A context in which memory that does not suffice is a ResourceError with advice."""
        return within_memory(doing, "free some" if self.device.type == "cpu" else "free some, or use --device cpu")

    def predict(
        self,
        scan: Volume | str | Path,
        *,
        point_mm: ArrayLike | None = None,
        series: str = "",
        mask: str | Path | None = None,
    ) -> Prediction:
        """Predict one scan.

        Args:
            scan: A Volume in HU, or a path that ``read`` accepts.
            point_mm: LPS mm (x, y, z), for models of region ``point``.
            series: The series to read, if the folder holds several.
            mask: File of a lung mask, for models that need the lungs.

        Raises:
            ConfigError: If a mask is given that would have no effect.
            HilumError: If the scan cannot be read or prepared.
        """
        sample = self.prepare(scan, point_mm=point_mm, series=series, mask=mask)
        return replace(self.predict_samples([sample])[0], sample=sample)

    def prepare(
        self,
        scan: Volume | str | Path,
        *,
        point_mm: ArrayLike | None = None,
        series: str = "",
        mask: str | Path | None = None,
    ) -> Volume:
        """Prepare one scan as the sample that the model sees; arguments and errors are those of ``predict``."""
        return prepare_scan(self.card, scan, point_mm=point_mm, series=series, mask=mask)

    def predict_samples(self, samples: list[Volume]) -> list[Prediction]:
        """Predict a batch of prepared samples.

        Raises:
            CheckpointError: If an output of the network is not finite.
            ResourceError: If memory does not suffice.
        """
        found, decisions = self._outputs(samples), self.card.decisions
        probs = decisions.probabilities(_array(found.logits))
        decided = decisions.decided(probs)
        by_member = [decisions.probabilities(_array(own)) for own in found.by_member]
        spreads = np.std(by_member, axis=0) if len(by_member) > 1 else np.zeros((len(samples), 0))
        judged = self._distances(found)
        distances = [None] * len(samples) if judged is None else judged.tolist()
        unseen = [self._unseen(sample, distance) for sample, distance in zip(samples, distances, strict=True)]
        cases = zip(samples, probs, decided, spreads, unseen, strict=True)
        return [self._prediction(*case) for case in cases]

    def logits(self, samples: list[Volume]) -> Float64[np.ndarray, "n c"]:
        """Logits of a batch of prepared samples, before any calibration.

        Raises:
            CheckpointError: If one is not finite.
            ResourceError: If memory does not suffice.
        """
        return _array(self._outputs(samples).logits)

    @torch.inference_mode()
    def _outputs(self, samples: list[Volume]) -> CaseOutputs:
        recipe = self.card.recipe
        scans, grid = f"{len(samples)} scan{'s' * (len(samples) > 1)}", " x ".join(map(str, recipe.size))
        with self.within_memory(f"predicting {scans} on {grid} voxels at a time"):
            cases, many = [as_sample(s, recipe) for s in samples], self.card.decisions.multi_label
            found = case_outputs(self.network, cases, recipe, self.device, self.card.views, multi_label=many)
        if not torch.isfinite(found.logits).all():
            msg = "the network's output must be finite; the weights of this model are damaged"
            raise CheckpointError(msg)
        return found

    def logits_and_distances(
        self, samples: list[Volume]
    ) -> tuple[Float64[np.ndarray, "n c"], Float64[np.ndarray, " n"] | None]:
        """Logits as ``logits``, and the distances of the features from those of training; None if not judged."""
        found = self._outputs(samples)
        return _array(found.logits), self._distances(found)

    def _distances(self, found: CaseOutputs) -> Float64[np.ndarray, " n"] | None:
        return mean_distance(self.statistics, [_array(o) for o in found.features]) if self.statistics else None

    def _unseen(self, sample: Volume, distance: float | None) -> tuple[Finding, ...]:
        """Findings of the gate."""
        gate = self.card.gate
        return () if gate is None else gate.findings(facts_of(sample, self.card.recipe), kernel_of(sample), distance)

    def _prediction(
        self,
        sample: Volume,
        probs: Float64[np.ndarray, " c"],
        decided: Any,
        spread: Float64[np.ndarray, " k"],
        unseen: tuple[Finding, ...],
    ) -> Prediction:
        card, decisions = self.card, self.card.decisions
        outcome = outcome_of(sample, card.recipe, card.gate, unseen, is_undecided=bool(np.any(decided == -1)))
        return Prediction(
            probabilities={name: float(p) for name, p in zip(card.classes, probs, strict=True)},
            decision=NO_RESULT if outcome.kind == NO_RESULT else decisions.described(decided[None])[0],
            outcome=outcome,
            thresholds=decisions.thresholds,
            sets=decisions.sets_of(probs),
            spread={name: float(one) for name, one in zip(card.classes, spread, strict=False)},
            findings=(*sample.findings, *unseen),
            geometry=_geometry(sample, card.recipe),
        )


def _array(values: Tensor) -> Float64[np.ndarray, "_ _"]:
    return np.asarray(values.cpu().double().numpy())


def _geometry(sample: Volume, recipe: Recipe) -> dict[str, Any]:
    half = np.array(sample.extent_mm)[::-1] / 2
    centre = sample.centre_mm
    return {
        "region": recipe.region,
        "centre_lps_mm": [round(float(v), 3) for v in centre],
        "box_lps_mm": [[round(float(v), 3) for v in corner] for corner in (centre - half, centre + half)],
        "size_zyx": list(sample.shape),
        "spacing_zyx_mm": [round(s, 6) for s in sample.spacing_mm],
    }
