"""A policy is a table that a site can override by code, within reason."""

import pytest

from hilum.errors import ConfigError
from hilum.findings import POLICY, Policy, printable
from hilum.findings import find as find_by_standard
from hilum.settings.run import ReadingConfig
from hilum.settings.toml import from_dict


@pytest.mark.parametrize("code", POLICY)
def test_a_stricter_policy_is_never_milder(code):
    mildness = {"note": 0, "repaired": 0, "refused": 1}
    strict, standard, lenient = (mildness[severity] for severity in POLICY[code])
    assert strict >= standard >= lenient


def test_an_override_changes_its_code_alone():
    policy = Policy(name="standard", override=("slice-gap=note", "missing-slices=refused"))
    assert policy.severity("slice-gap") == "note"
    assert policy.severity("missing-slices") == "refused"
    assert {c for c in POLICY if policy.severity(c) != POLICY[c][1]} == {"slice-gap", "missing-slices"}


def test_what_is_beyond_repair_is_refused_whatever_would_be_repaired():
    assert find_by_standard("missing-slices", "x").severity == "repaired"
    assert find_by_standard("missing-slices", "x", repairable=False).severity == "refused"
    assert find_by_standard("rescale-missing", "x", repairable=False).severity == "refused"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("slice-gap", "must be code=note, code=repaired or code=refused with a known code, got 'slice-gap'"),
        ("gap=note", "with a known code, got 'gap=note'"),
        ("slice-gap=fine", "got 'slice-gap=fine'"),
        ("time-series=note", "time-series must be refused, got"),
        ("missing-slices=note", "missing-slices must be repaired or refused, got"),
        ("few-slices=repaired", "the severity of few-slices must be note or refused, got"),
    ],
)
def test_an_override_that_cannot_be_is_an_error_that_says_what_can(override, message):
    with pytest.raises(ConfigError, match=message):
        ReadingConfig(override=(override,))


def test_a_code_is_overridden_once():
    with pytest.raises(ConfigError, match="must name each code once"):
        ReadingConfig(override=("few-slices=note", "few-slices=refused"))


def test_a_policy_that_is_not_there_is_an_error_that_lists_those_that_are():
    with pytest.raises(ConfigError, match="one of strict, standard, lenient, got 'mild'"):
        from_dict(ReadingConfig, {"policy": "mild"})


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_the_limit_is_a_positive_number(limit):
    with pytest.raises(ConfigError, match=r"reading\.max_gb must be positive"):
        ReadingConfig(max_gb=limit)


def test_a_name_is_shown_on_one_line_without_codes_for_terminals():
    assert printable("a\x1b[31m\nb\udcff ü") == "a?[31m?b? ü"
    assert find_by_standard("few-slices", "x", "bad\nname").where == "bad?name"
