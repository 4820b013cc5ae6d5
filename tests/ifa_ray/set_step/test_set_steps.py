import dataclasses

import numpy as np
import pytest
from set_cases import ITEMS, make_request

from ifa_ray.config import ModelConfig
from ifa_ray.errors import ConfigError
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.reranking.repetition import FEATURES, ItemTraits
from ifa_ray.reranking.step import (
    SetStep,
    dpp_gain_naive,
    fill_slate_naive,
    learned_gain_naive,
    mmr_gain_naive,
    recent_of,
)
from ifa_ray.schema import OBJECTIVES

TRAITS = ItemTraits.of(ITEMS)
WEIGHTS = np.random.default_rng(3).normal(size=(len(OBJECTIVES) - 1, len(FEATURES)))
CONFIG = ModelConfig(name="ifa", set_step="mmr", set_pool=20, ranking_rule="imp*is_click*is_like")


def log_probabilities(request, seed=0):
    rng = np.random.default_rng(seed)
    logits_CL = rng.normal(-1.0, 1.0, (len(request.candidates_C), len(OBJECTIVES)))
    log_p_CL = -np.logaddexp(0.0, -logits_CL)
    log_p_CL[:, 1:] += log_p_CL[:, :1]
    return log_p_CL.astype(np.float32)


def make_step(name, strength=1.0, **changes):
    config = dataclasses.replace(CONFIG, set_step=name, set_strength=strength, **changes)
    return SetStep(config, ITEMS, WEIGHTS if name == "learned" else None)


def pool_of(step, request, log_p_CL):
    scores_C = np.round(parse_ranking_rule(CONFIG.ranking_rule).scores(log_p_CL), 5)
    pool_P = np.argsort(-scores_C, kind="stable")[: step.pool_size(len(scores_C), request.k)]
    return pool_P, scores_C[pool_P]


def naive_gain(name, strength, request, pool_P, log_p_CL):
    rows_P = ITEMS.rows(request.candidates_C[pool_P])
    if name != "learned":
        gain = {"mmr": mmr_gain_naive, "dpp": dpp_gain_naive}[name]
        return lambda place, above: gain(TRAITS.content_RX[rows_P], place, above, strength)
    log_p_PL = log_p_CL[pool_P].astype(np.float64)
    rule = parse_ranking_rule(CONFIG.ranking_rule).weights

    def gain_of(place, above):
        total = 0.0
        for at in range(1, len(OBJECTIVES)):
            p_P = np.exp(log_p_PL[:, at] - log_p_PL[:, 0])
            logit_P, recent = np.log(p_P / (1 - p_P)), recent_of(request, ITEMS)
            total += rule[at] * learned_gain_naive(
                TRAITS, rows_P, recent, logit_P, WEIGHTS[at - 1], place, above
            )
        return strength * total

    return gain_of


@pytest.mark.parametrize("name", ["mmr", "dpp", "learned"])
@pytest.mark.parametrize("seed", range(4))
def test_the_fast_walk_chooses_what_the_naive_one_chooses(name, seed):
    request = make_request(seed, k=10)
    log_p_CL = log_probabilities(request, seed)
    step = make_step(name, strength=0.7)
    pool_P, scores_P = pool_of(step, request, log_p_CL)
    chosen_K, _ = step.choose(request, pool_P, scores_P, log_p_CL[pool_P])
    naive = fill_slate_naive(scores_P, naive_gain(name, 0.7, request, pool_P, log_p_CL), request.k)
    assert chosen_K.tolist() == pool_P[naive].tolist()
    assert chosen_K.tolist() != pool_P[: request.k].tolist(), "the step did something"


@pytest.mark.parametrize("name", ["mmr", "dpp", "learned"])
def test_strength_0_changes_nothing(name):
    request = make_request(k=20)
    log_p_CL = log_probabilities(request)
    step = make_step(name, strength=0.0)
    pool_P, scores_P = pool_of(step, request, log_p_CL)
    chosen_K, worth_K = step.choose(request, pool_P, scores_P, log_p_CL[pool_P])
    assert chosen_K.tolist() == pool_P.tolist()
    np.testing.assert_array_equal(worth_K, scores_P)


@pytest.mark.parametrize("name", ["mmr", "dpp", "learned"])
def test_scores_never_increase_and_places_are_the_pools(name):
    request = make_request(k=15)
    log_p_CL = log_probabilities(request)
    step = make_step(name, strength=5.0)
    pool_P, scores_P = pool_of(step, request, log_p_CL)
    chosen_K, worth_K = step.choose(request, pool_P, scores_P, log_p_CL[pool_P])
    assert np.isfinite(worth_K).all()
    assert (np.diff(worth_K) <= 0).all()
    assert len(set(chosen_K.tolist())) == 15
    assert set(chosen_K.tolist()) <= set(pool_P.tolist())


def test_a_step_that_has_learned_nothing_changes_nothing():
    request = make_request(k=12)
    log_p_CL = log_probabilities(request)
    config = dataclasses.replace(CONFIG, set_step="learned", set_strength=6.0)
    step = SetStep(config, ITEMS, np.zeros_like(WEIGHTS))
    pool_P, scores_P = pool_of(step, request, log_p_CL)
    assert (
        step.choose(request, pool_P, scores_P, log_p_CL[pool_P])[0].tolist() == pool_P[:12].tolist()
    )


def test_a_dpp_can_fill_more_slots_than_content_has_dimensions():
    request = make_request(k=18)
    log_p_CL = log_probabilities(request)
    step = make_step("dpp", strength=2.0)
    pool_P, scores_P = pool_of(step, request, log_p_CL)
    chosen_K, worth_K = step.choose(request, pool_P, scores_P, log_p_CL[pool_P])
    assert len(set(chosen_K.tolist())) == 18 > ITEMS.content_ND.shape[1]
    assert np.isfinite(worth_K).all()


def test_the_pool_is_no_smaller_than_the_slate_and_no_larger_than_the_candidates():
    step = make_step("mmr")
    assert step.pool_size(1_000, 10) == 20
    assert step.pool_size(1_000, 50) == 50
    assert step.pool_size(7, 5) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_step": "lerned"}, "Did you mean 'learned'?"),
        ({"set_strength": -1.0}, "set_strength == -1.0, must be in [0, 1000]."),
        ({"set_strength": float("nan")}, "set_strength == nan"),
        ({"set_pool": 0}, "set_pool == 0, must be >= 1."),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(CONFIG, **changes)
    assert message in str(error.value)
