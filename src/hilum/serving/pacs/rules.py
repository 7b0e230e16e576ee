"""Chooses the model for a study: the first rule of the config that one of its CT series fits."""

import re
from collections.abc import Iterable, Sequence

from hilum.serving.pacs.instance import InstanceHeader
from hilum.settings.serving import RuleConfig


def model_for(headers: Iterable[InstanceHeader], rules: Sequence[RuleConfig]) -> str | None:
    """Name of the model; None if no rule fits.

    Args:
        headers: One or more for each series of the study.
        rules: The rules, in order.
    """
    series = {header.series: header for header in headers}.values()
    return next((rule.model for rule in rules if any(fits(rule, header) for header in series)), None)


def fits(rule: RuleConfig, header: InstanceHeader) -> bool:
    """Whether a series fits a rule."""
    age = header.age
    has_age = rule.youngest is None and rule.oldest is None
    if age is not None:
        oldest = rule.oldest
        has_age = (rule.youngest is None or rule.youngest <= age) and (oldest is None or age <= oldest)
    return (
        header.modality.upper() == rule.modality.upper()
        and has_age
        and re.search(rule.body_part, header.body_part, re.IGNORECASE) is not None
        and any(re.search(rule.description, one, re.IGNORECASE) for one in header.descriptions)
    )
