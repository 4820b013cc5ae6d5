"""Features of requests against their definitions, computed by hand, one candidate at a time."""

import numpy as np
import pytest
from small_environments import actions_of, assert_same, small, small_batch

from ifa_ray.schema import ACTIONS
from simulator.config import DAY_MS
from simulator.environments import (
    FeatureObservation,
    ScoredSlates,
    VectorFeatureObservation,
    VectorScoredSlates,
)
from simulator.environments.features import (
    CANDIDATE_FEATURES,
    STATE_FEATURES,
    candidate_features,
    raw_candidate_features,
    state_features,
)
from simulator.environments.wrappers import SCORED_BY, slates_of_scores


@pytest.fixture(scope="module")
def asked():
    """Requests in the midst of sessions, and the catalogue."""
    batch = small_batch("session", 6)
    batch.reset(seed=2)
    observation, *_ = batch.step(np.tile(np.arange(8), (6, 1)))
    return observation, batch.core.population.world.catalog.observed


def past(observation, row):
    """(item, actions, time) of real behaviours, oldest first."""
    real = np.flatnonzero(observation["history_mask"][row])
    columns = ("history_ids", "history_actions", "history_times_ms")
    return list(zip(*(observation[name][row][real].tolist() for name in columns), strict=True))


def happened(actions, name):
    return bool(actions >> ACTIONS.index(name) & 1)


def naive(observation, catalog, row, candidate):
    """The features of one candidate, as `CANDIDATE_FEATURES` says."""
    items, now = catalog.items, int(observation["time_ms"][row, 0])
    behaviours = past(observation, row)
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
    observation, catalog = asked
    raw_BCF = raw_candidate_features(catalog, observation)
    for row in range(len(raw_BCF)):
        for place, candidate in enumerate(observation["candidate_ids"][row].tolist()):
            expected = naive(observation, catalog, row, candidate)
            np.testing.assert_allclose(
                raw_BCF[row, place], [expected[name] for name in CANDIDATE_FEATURES], atol=1e-6
            )
    assert raw_BCF[..., CANDIDATE_FEATURES.index("repetition")].max() > 0


def test_standardised_features_have_mean_0_and_spread_1_or_0(asked):
    features_BCF = candidate_features(asked[1], asked[0])
    np.testing.assert_allclose(features_BCF.mean(axis=1), 0, atol=1e-9)
    sd_BF = features_BCF.std(axis=1)
    assert (np.isclose(sd_BF, 1) | np.isclose(sd_BF, 0)).all()


def test_state_features_count_clicks_of_all_of_the_latest_and_of_the_session(asked):
    observation, catalog = asked
    found_BF = state_features(catalog, observation)
    assert found_BF.shape == (6, len(STATE_FEATURES))
    for row in range(6):
        named = dict(zip(STATE_FEATURES, found_BF[row], strict=True))
        clicks = [happened(actions, "is_click") for _, actions, _ in past(observation, row)]
        assert named["click_rate"] == pytest.approx(np.mean(clicks))
        assert named["click_rate_50"] == pytest.approx(np.mean(clicks[-50:]))
        assert named["log_history"] == pytest.approx(np.log1p(len(clicks)))
        session = round(np.expm1(named["session_impressions"]))
        if session:
            assert named["session_click_rate"] == pytest.approx(np.mean(clicks[-session:]))


@pytest.mark.parametrize("by", SCORED_BY)
def test_wrapped_batches_are_the_wrapped_single_environments_of_their_rows(by):
    batch = VectorFeatureObservation(VectorScoredSlates(small_batch("session", 3), by=by))
    observation_BF, _ = batch.reset(seed=6)
    singles = [FeatureObservation(ScoredSlates(small("session"), by=by)) for _ in range(3)]
    for row, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=6 + row)[0], observation_BF[row])
    ended = [False] * 3
    for action_BX in actions_of(batch, 6):
        observation_BF, reward_B, terminated_B, truncated_B, _ = batch.step(action_BX)
        for row, env in enumerate(singles):
            if ended[row]:
                found = env.reset()[0], 0.0, False, False
            else:
                found = env.step(action_BX[row])[:4]
            expected = (observation_BF[row], reward_B[row], terminated_B[row], truncated_B[row])
            assert_same(found[0], expected[0])
            assert found[1:] == expected[1:]
            ended[row] = bool(found[2] or found[3])


def test_features_of_a_last_observation_are_given_where_the_next_episode_begins_at_once():
    batch = VectorFeatureObservation(small_batch("ranking", 3, autoreset_mode="SameStep"))
    batch.reset(seed=6)
    slates_BK = np.tile(np.arange(8), (3, 1))
    fresh_BF, *_, infos = batch.step(slates_BK)
    for row in range(3):
        env = FeatureObservation(small("ranking"))
        env.reset(seed=6 + row)
        np.testing.assert_array_equal(infos["final_obs"][row], env.step(slates_BK[row])[0])
        np.testing.assert_array_equal(fresh_BF[row], env.reset()[0])


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
