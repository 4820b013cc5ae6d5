import math

import numpy as np
import pytest
import torch

from ifa_ray.config import ModelConfig
from ifa_ray.errors import ConfigError
from ifa_ray.models.base import log_probabilities_from
from ifa_ray.ranking_rule import RANKING_RULES, parse_ranking_rule
from ifa_ray.schema import OBJECTIVES

# p(imp|can), then p(click|imp), p(long view|imp), p(like|imp) of two candidates.
P = np.array([[0.2, 0.5, 0.3, 0.1], [0.9, 0.4, 0.05, 0.02]])
LOG_P = np.log(np.concatenate([P[:, :1], P[:, :1] * P[:, 1:]], axis=1))


def test_the_objectives_are_those_that_the_names_stand_for():
    assert OBJECTIVES == ("impression", "is_click", "long_view", "is_like")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("pitctr", P[:, 0] * P[:, 1]),
        ("long_view", P[:, 0] ** 0.5 * P[:, 2]),
        ("imp^0.5*long_view^1*is_like^0.2", P[:, 0] ** 0.5 * P[:, 2] * P[:, 3] ** 0.2),
        ("is_click", P[:, 1]),
        ("imp", P[:, 0]),
        (" is_like^2 * imp ", P[:, 0] * P[:, 3] ** 2),
        ("long_view^1", P[:, 2]),
        ("imp^2*is_click*long_view", P[:, 0] ** 2 * P[:, 1] * P[:, 2]),
    ],
)
def test_a_rule_is_a_weighted_geometric_mean(rule, expected):
    np.testing.assert_allclose(parse_ranking_rule(rule).scores(LOG_P), np.log(expected))


def test_a_named_rule_is_its_expression():
    for name, expression in RANKING_RULES.items():
        assert parse_ranking_rule(name) == parse_ranking_rule(expression)


def test_what_a_rule_leaves_out_cannot_spoil_its_scores():
    log_p = LOG_P.copy()
    log_p[:, 3] = -math.inf
    assert np.isfinite(parse_ranking_rule("pitctr").scores(log_p)).all()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("pitcr", "Did you mean 'pitctr'?"),
        ("longview", "Did you mean 'long_view'?"),
        ("imp^0.5*long_vew", "Did you mean 'long_view'?"),
        ("imp*clicks", "objective == 'clicks', must be one of imp, is_click, is_like, long_view"),
        ("imp*imp^2", "imp is named twice, must be once"),
        ("imp^0*is_click", "weight of imp == 0, must be in (0, 100]"),
        ("imp^101", "weight of imp == 101, must be in (0, 100]"),
        ("imp^-1", "term 'imp^-1', must be NAME or NAME^WEIGHT"),
        ("imp^1e3", "term 'imp^1e3'"),
        ("imp**2", "term ''"),
        ("imp*", "term ''"),
        ("", "term ''"),
        ("__import__('os')", "must be NAME or NAME^WEIGHT"),
        ("imp^nan", "term 'imp^nan'"),
    ],
)
def test_a_wrong_rule_says_what_is_wrong(rule, message):
    with pytest.raises(ConfigError) as error:
        ModelConfig(name="ifa", ranking_rule=rule)
    assert message in str(error.value)
    assert "ranking_rule" in str(error.value)


@pytest.mark.parametrize("rule", ["pitctr", "long_view", "imp", "is_click", "imp^0.01*is_like^100"])
def test_no_score_exceeds_its_bound_and_objectives_are_what_it_is_made_of(rule):
    logits_CL = torch.randn(20_000, len(OBJECTIVES), generator=torch.Generator().manual_seed(0))
    log_p_CL = log_probabilities_from(20 * logits_CL).numpy()
    read = parse_ranking_rule(rule)
    bound_C = read.bound(log_p_CL[:, 0])
    assert (read.scores(log_p_CL) <= bound_C).all()
    certain_CL = log_p_CL.copy()
    certain_CL[:, 1:] = log_p_CL[:, :1]  # all else is certain: nothing is left but the bound
    np.testing.assert_allclose(read.scores(certain_CL), bound_C, rtol=2e-4, atol=2e-2)
    others = [place for place in range(len(OBJECTIVES)) if place not in read.objectives]
    expected_C = read.scores(log_p_CL)
    log_p_CL[:, others] = math.nan
    np.testing.assert_array_equal(read.scores(log_p_CL), expected_C)
    assert read.objectives[0] == 0
