"""Features of requests against their definitions, computed by hand, one candidate at a time."""

import numpy as np
import pytest
from small_environments import actions_of, small, small_batch

from ifa_ray.schema import ACTIONS
from simulator.environments import FeatureObservation, ScoredSlates
from simulator.environments.wrappers import (
    CANDIDATE_FEATURES,
    SCORED_BY,
    STATE_FEATURES,
    candidate_features,
    raw_candidate_features,
    slates_of_scores,
    state_features,
)
from simulator.world.config import DAY_MS


@pytest.fixture(scope="module")
def asked():
    """Requests in the midst of sessions, and the catalogue."""
    requests = []
    for seed in range(2, 8):
        env = small("session").unwrapped
        env.reset(seed=seed)
        requests.append(env.step(np.arange(8))[0])
    return requests, env.population.world.catalog.observed


def past(observation):
    """(item, actions, time) of real behaviours, oldest first."""
    real = np.flatnonzero(observation["history_mask"])
    columns = ("history_ids", "history_actions", "history_times_ms")
    return list(zip(*(observation[name][real].tolist() for name in columns), strict=True))


def happened(actions, name):
    return bool(actions >> ACTIONS.index(name) & 1)


def naive(observation, catalog, candidate):
    """The features of one candidate, as `CANDIDATE_FEATURES` says."""
    items, now = catalog.items, int(observation["time_ms"][0])
    behaviours = past(observation)
    long_views = [item for item, actions, _ in behaviours if happened(actions, "long_view")]
    mean = sum((items.content_ND[item].astype(float) for item in long_views), np.zeros(16))
    content = items.content_ND[candidate].astype(float)
    category = items.category_N[candidate]
    shown = [item for item, *_ in behaviours if items.category_N[item] == category]
    liked = [item for item in long_views if items.category_N[item] == category]
    rate = len(long_views) / len(behaviours)
    smoothed = (len(liked) + 10 * rate) / (len(shown) + 10)
    session, last = [], now
    for item, _, time_ms in reversed(behaviours):
        if last - time_ms >= 30 * 60_000:
            break
        session.append(item)
        last = time_ms
    return {
        "long_match": content @ mean / np.linalg.norm(mean),
        "recent_match": max(0, *(content @ items.content_ND[item] for item in long_views[-4:])),
        "author_match": np.log1p(
            sum(items.author_id_N[item] == items.author_id_N[candidate] for item in long_views)
        ),
        "category_match": np.log(max(smoothed, 1e-3) / max(rate, 1e-3)),
        "popularity": np.log(len(items) * catalog.popularity_N[candidate]),
        "freshness": np.exp(-max(now - int(items.upload_ms_N[candidate]), 0) / DAY_MS / 3),
        "duration": np.log(items.duration_ms_N[candidate] / 1000),
        "repetition": np.log1p(sum(items.category_N[item] == category for item in session)),
    }


def test_candidate_features_are_what_they_are_said_to_be(asked):
    observations, catalog = asked
    repetition = 0
    for observation in observations:
        raw_CF = raw_candidate_features(catalog, observation)
        for place, candidate in enumerate(observation["candidate_ids"].tolist()):
            expected = naive(observation, catalog, candidate)
            np.testing.assert_allclose(
                raw_CF[place], [expected[name] for name in CANDIDATE_FEATURES], atol=1e-6
            )
        repetition += raw_CF[:, CANDIDATE_FEATURES.index("repetition")].sum()
    assert repetition > 0


def test_standardised_features_have_mean_0_and_spread_1_or_0(asked):
    features_CF = candidate_features(asked[1], asked[0][0])
    np.testing.assert_allclose(features_CF.mean(axis=0), 0, atol=1e-9)
    sd_F = features_CF.std(axis=0)
    assert (np.isclose(sd_F, 1) | np.isclose(sd_F, 0)).all()


def test_state_features_count_clicks_of_all_of_the_latest_and_of_the_session(asked):
    observations, catalog = asked
    for observation in observations:
        named = dict(zip(STATE_FEATURES, state_features(catalog, observation), strict=True))
        clicks = [happened(actions, "is_click") for _, actions, _ in past(observation)]
        assert named["click_rate"] == pytest.approx(np.mean(clicks))
        assert named["click_rate_50"] == pytest.approx(np.mean(clicks[-50:]))
        assert named["log_history"] == pytest.approx(np.log1p(len(clicks)))
        session = round(np.expm1(named["session_impressions"]))
        if session:
            assert named["session_click_rate"] == pytest.approx(np.mean(clicks[-session:]))


@pytest.mark.parametrize("by", SCORED_BY)
def test_batches_of_wrapped_environments_are_the_single_ones_of_their_rows(by):
    wrappers = [lambda env: FeatureObservation(ScoredSlates(env, by=by))]
    batch = small_batch("session", 3, wrappers=wrappers)
    observation_BF, _ = batch.reset(seed=6)
    action_BX = actions_of(batch, 1)[0]
    after_BF, reward_B, *_ = batch.step(action_BX)
    for row in range(3):
        env = wrappers[0](small("session"))
        np.testing.assert_array_equal(env.reset(seed=6 + row)[0], observation_BF[row])
        observation, reward, *_ = env.step(action_BX[row])
        np.testing.assert_array_equal(observation, after_BF[row])
        assert reward == reward_B[row]


def test_a_weight_shows_the_candidates_that_have_most_of_its_feature():
    env = ScoredSlates(small("ranking"), by="weights")
    observation, _ = env.reset(seed=3)
    action = np.zeros(len(CANDIDATE_FEATURES), np.float32)
    action[CANDIDATE_FEATURES.index("duration")] = 1
    *_, info = env.step(action)
    durations = env.unwrapped.items.duration_ms_N
    longest = np.sort(durations[observation["candidate_ids"]])[::-1][:8]
    shown = durations[info["shown_ids"]]
    assert (shown == longest).sum() >= 7  # one slot may be random
    assert info["repaired"] == 0


def test_equal_scores_are_ranked_by_place():
    np.testing.assert_array_equal(slates_of_scores(np.array([[0, 1, 0, 1e-7]]), 3), [[1, 0, 2]])
