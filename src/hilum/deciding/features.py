"""What each member of a model computes on the way to the logits of cases: its features, and its own logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hilum.cohorts.dataset import Sample
from hilum.deciding.inference import aggregated, case_logits
from hilum.deciding.tta import Views
from hilum.modelling.ensemble import Network, members_of
from hilum.settings.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseOutputs:
    """Outputs for a batch of cases.

    Attributes:
        logits: Of the model, with test-time augmentation where it has one.
        by_member: Of each member, without it.
        features: Of each member, before its last layer, without test-time augmentation: the mean over a case's grids.
    """

    logits: Float[Tensor, "b c"]
    by_member: list[Float[Tensor, "b c"]]
    features: list[Float[Tensor, "b d"]]


def case_outputs(
    network: Network,
    samples: Sequence[Sample],
    recipe: Recipe,
    device: torch.device,
    views: Views | None = None,
    *,
    multi_label: bool = False,
) -> CaseOutputs:
    """Outputs of each case; arguments are those of ``case_logits``."""
    groups = [[one] for one in samples] if recipe.sub_volumes else [list(samples)]
    logits: list[Tensor] = []
    by_member: list[list[Tensor]] = [[] for _ in members_of(network)]
    features: list[list[Tensor]] = [[] for _ in by_member]
    step = 1 + (views.count if views is not None else 0)  # each batch of grids is followed by its views
    for group in groups:
        with _calls_kept(network) as calls:
            logits.append(case_logits(network, group, recipe, device, views, multi_label=multi_label))
        for m, own in enumerate(calls):
            seen, found = (torch.cat(column).float() for column in zip(*own[::step], strict=True))
            if recipe.sub_volumes:
                seen, found = seen.mean(dim=0, keepdim=True), aggregated(found, recipe, multi_label=multi_label)[None]
            features[m].append(seen)
            by_member[m].append(found)
    return CaseOutputs(
        logits=torch.cat(logits),
        by_member=[torch.cat(own) for own in by_member],
        features=[torch.cat(own) for own in features],
    )


@contextmanager
def _calls_kept(network: Network) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
    """Input and output of the last layer of each member, call by call."""
    calls: list[list[tuple[Tensor, Tensor]]] = [[] for _ in members_of(network)]

    def keep(found: list[tuple[Tensor, Tensor]], _module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        found.append((inputs[0].detach(), output.detach()))

    members = zip(members_of(network), calls, strict=True)
    hooks = [one.fc.register_forward_hook(partial(keep, found)) for one, found in members]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
