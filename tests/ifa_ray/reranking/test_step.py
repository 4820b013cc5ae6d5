import dataclasses

import naive_reranking as naive
import numpy as np
import pytest
from reranking_cases import ITEMS, make_request

from ifa_ray.config import ModelConfig
from ifa_ray.errors import ConfigError
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.reranking.repetition import FEATURES, ItemTraits, recent_of
from ifa_ray.reranking.step import SetStep
from ifa_ray.schema import OBJECTIVES

NAMES = ["mmr", "dpp", "learned"]
TRAITS = ItemTraits.of(ITEMS)
WEIGHTS = np.random.default_rng(3).normal(size=(len(OBJECTIVES) - 1, len(FEATURES)))
CONFIG = ModelConfig(name="ifa", set_step="mmr", set_pool=20, ranking_rule="imp*is_click*is_like")


def make_step(name, strength, weights=WEIGHTS):
    config = dataclasses.replace(CONFIG, set_step=name, set_strength=strength)
    return SetStep(config, ITEMS, weights if name == "learned" else None)


def pool_of(request, seed=0):
    """Ids, scores and log-probabilities of the 20 best candidates by score."""
    rng = np.random.default_rng(seed)
    log_p_CL = -np.logaddexp(0.0, -rng.normal(-1.0, 1.0, (40, len(OBJECTIVES))))
    log_p_CL[:, 1:] += log_p_CL[:, :1]
    scores_C = np.round(parse_ranking_rule(CONFIG.ranking_rule).scores(log_p_CL), 5)
    best = np.argsort(-scores_C, kind="stable")[: CONFIG.set_pool]
    return request.candidates_C[best], scores_C[best], log_p_CL[best].astype(np.float32)


def naive_gain(name, strength, request, ids_P, log_p_PL):
    rows_P = ITEMS.rows(ids_P)
    if name != "learned":
        gain = {"mmr": naive.mmr_gain, "dpp": naive.dpp_gain}[name]
        return lambda place, above: strength * gain(TRAITS.content_RX[rows_P], place, above)
    rule, recent = parse_ranking_rule(CONFIG.ranking_rule).weights, recent_of(request, ITEMS)

    def gain_of(place, above):
        total = 0.0
        for at in range(1, len(OBJECTIVES)):
            p_P = np.exp(log_p_PL[:, at].astype(np.float64) - log_p_PL[:, 0])
            logit_P = np.log(p_P / (1 - p_P))
            total += rule[at] * naive.learned_gain(
                TRAITS, rows_P, recent, logit_P, WEIGHTS[at - 1], place, above
            )
        return strength * total

    return gain_of


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_the_fast_walk_chooses_what_the_naive_one_chooses(name, seed):
    request = make_request(seed, k=10)
    ids_P, scores_P, log_p_PL = pool_of(request, seed)
    chosen_K, _ = make_step(name, 0.7).choose(request, ids_P, scores_P, log_p_PL)
    gain_of = naive_gain(name, 0.7, request, ids_P, log_p_PL)
    assert chosen_K.tolist() == naive.fill_slate(scores_P, gain_of, request.k)
    assert chosen_K.tolist() != list(range(10)), "re-ranking did something"


@pytest.mark.parametrize(
    ("name", "strength", "weights"),
    [*((name, 0.0, WEIGHTS) for name in NAMES), ("learned", 6.0, np.zeros_like(WEIGHTS))],
)
def test_strength_0_and_nothing_learned_change_nothing(name, strength, weights):
    request = make_request(k=20)
    ids_P, scores_P, log_p_PL = pool_of(request)
    step = make_step(name, strength, weights)
    chosen_K, worth_K = step.choose(request, ids_P, scores_P, log_p_PL)
    assert chosen_K.tolist() == list(range(20))
    np.testing.assert_array_equal(worth_K, scores_P)


@pytest.mark.parametrize("name", NAMES)
def test_scores_never_increase_and_no_place_comes_twice(name):
    """A DPP fills more slots than content has dimensions, too."""
    request = make_request(k=18)
    chosen_K, worth_K = make_step(name, 5.0).choose(request, *pool_of(request))
    assert np.isfinite(worth_K).all()
    assert (np.diff(worth_K) <= 0).all()
    assert len(set(chosen_K.tolist())) == 18 > ITEMS.content_ND.shape[1]


def test_the_pool_is_no_smaller_than_the_slate_and_no_larger_than_the_candidates():
    step = make_step("mmr", 1.0)
    assert [step.pool_size(*size) for size in ((1_000, 10), (1_000, 50), (7, 5))] == [20, 50, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_step": "lerned"}, "Did you mean 'learned'?"),
        ({"set_strength": -1.0}, "set_strength == -1.0, must be in [0, 1000]."),
        ({"set_pool": 0}, "set_pool == 0, must be >= 1."),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(CONFIG, **changes)
    assert message in str(error.value)
