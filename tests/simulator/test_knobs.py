"""Every setting is of a known kind, and every mechanism's knob has tests of direction and of zero.

A new setting fails here until it is listed, and a mechanism until a test of it is named.
"""

import dataclasses
import importlib

import numpy as np
import pytest
from tiny_worlds import TINY, live, tiny_world, users_of

from simulator.world.config import LEVELS, START_MS, WorldConfig
from simulator.world.policy import choose_slates
from simulator.world.queries import long_profiles, make_query
from simulator.world.responses import FEEDBACK, feedback_logit, watch_distribution
from simulator.world.users import history_targets, interest_matrix
from simulator.world.world import ShardState

SCALE = {
    "num_items", "num_topics", "content_width", "num_candidates", "slate_size", "max_history",
    "longest_prehistory", "min_history", "history_median", "history_log_sd", "duration_median_s",
    "duration_log_sd", "warmup_days", "warmup_candidates", "warmup_requests_per_user",
    "horizon_days", "live_share", "sessions_per_day", "max_sessions", "max_requests",
    "session_impressions", "active_rate", "sample_rate",
}  # fmt: skip
# Levels that shift a rate and have no zero that means off.
OFFSETS = {
    "skip_level", "skip_mean_s", "watch_level", "watch_log_sd", "leave_level", "joy_level",
    "like_level", "comment_level", "follow_level", "forward_level", "hate_level",
}  # fmt: skip
FEEDBACK_TEST = "test_knobs.test_a_gain_of_feedback_goes_with_utility_and_zero_ignores_it"
TESTS_OF = {
    "interest_gain": "test_mechanisms.test_users_prefer_items_of_their_interests",
    "interest_spread": "test_knobs.test_interests_are_graded_by_their_spread_and_alike_at_zero",
    "dormancy": "test_knobs.test_a_sleeping_interest_weighs_little_and_at_zero_as_much_as_awake",
    "drift_rate": "test_mechanisms.test_interests_drift_slowly_and_not_at_rate_zero",
    "mood_gain": "test_mechanisms.test_a_mood_lifts_its_topic_and_only_its_topic",
    "loyalty_gain": "test_mechanisms.test_loyalty_grows_with_long_views_of_the_author",
    "taste_gain": "test_mechanisms.test_taste_crosses_topics",
    "quality_gain": "test_mechanisms.test_quality_and_popularity_please_everybody_alike",
    "popularity_gain": "test_mechanisms.test_quality_and_popularity_please_everybody_alike",
    "freshness_gain": "test_mechanisms.test_an_item_is_fresh_when_it_is_young",
    "topic_boredom": "test_mechanisms.test_a_repeated_topic_bores_more_than_a_change_of_topics",
    "author_boredom":
        "test_mechanisms.test_the_second_item_of_an_author_bores_and_zero_switches_it_off",
    "leave_gain": "test_mechanisms.test_users_stay_longer_when_they_enjoy_what_they_see",
    "return_gain": "test_mechanisms.test_satisfied_users_come_back_more_often",
    "activity_spread":
        "test_mechanisms.test_active_users_come_more_often_have_longer_histories_and_click_less",
    "activity_bias": "test_knobs.test_busy_users_are_less_eager_and_at_zero_as_eager_as_others",
    "bias_sd": "test_mechanisms.test_an_eager_user_watches_everything_longer",
    "utility_scale": "test_knobs.test_at_utility_scale_zero_all_items_are_alike_to_a_user",
    "watch_gain": "test_responses.test_watch_gain_zero_makes_watching_ignore_utility",
    "zero_share": "test_knobs.test_zero_share_is_of_quick_skips_and_zero_leaves_none",
    "replay_share": "test_mechanisms.test_looping_is_off_at_zero",
    "duration_gain": "test_knobs.test_longer_videos_are_watched_longer_and_skipped_more_often",
    "duration_skip": "test_knobs.test_longer_videos_are_watched_longer_and_skipped_more_often",
    **{f"{name.removeprefix('is_')}_gain": FEEDBACK_TEST for name in FEEDBACK},
    "refresh_rate": "test_knobs.test_without_refreshing_a_slate_ends_only_by_leaving",
    "rand_share": "test_knobs.test_random_slots_come_as_often_as_the_setting_says_and_not_at_zero",
    "popularity_slope": "test_knobs.test_a_steeper_slope_concentrates_popularity_and_zero_has_none",
    "policy_popularity": "test_knobs.test_the_earlier_policy_follows_popularity_as_far_as_told",
    "policy_noise": "test_knobs.test_luck_in_the_earlier_policy_is_off_at_zero",
    "category_noise":
        "test_mechanisms.test_category_labels_are_wrong_as_often_as_the_setting_says",
    "content_noise": "test_mechanisms.test_content_is_a_view_of_topics_that_noise_blurs",
    "retrieval_noise": "test_knobs.test_noisy_retrieval_finds_other_candidates_each_round",
    "history_skew": "test_knobs.test_a_negative_skew_shortens_the_longest_histories",
}  # fmt: skip

USERS = np.arange(40, dtype=np.int32)


def test_every_setting_is_listed_once():
    kinds = [SCALE, OFFSETS, set(TESTS_OF)]
    assert set().union(*kinds) == {field.name for field in dataclasses.fields(WorldConfig)}
    assert sum(len(kind) for kind in kinds) == len(dataclasses.fields(WorldConfig))
    assert set(LEVELS) <= OFFSETS | set(TESTS_OF)


@pytest.mark.parametrize("knob", sorted(TESTS_OF))
def test_every_mechanism_has_a_test(knob):
    module, name = TESTS_OF[knob].split(".")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("knob", sorted(set(TESTS_OF) - {"history_skew"}))
def test_no_mechanism_has_a_negative_knob_and_all_may_be_zero(knob):
    dataclasses.replace(TINY, **{knob: 0.0})
    with pytest.raises(ValueError, match=f"{knob} == -0.1, must be"):
        dataclasses.replace(TINY, **{knob: -0.1})


def test_busy_users_are_less_eager_and_at_zero_as_eager_as_others():
    many = np.arange(4_000, dtype=np.int32)
    found = {}
    for bias in (0.0, 0.3, 0.6):
        users = users_of(tiny_world(activity_bias=bias), many)
        found[bias] = np.corrcoef(users.activity_U, users.bias_U)[0, 1]
    assert found[0.0] == pytest.approx(0.0, abs=0.04)
    assert found[0.3] == pytest.approx(-0.3, abs=0.04)
    assert found[0.6] == pytest.approx(-0.6, abs=0.04)


def test_at_utility_scale_zero_all_items_are_alike_to_a_user():
    from simulator.world.responses import utility

    world = tiny_world(utility_scale=0.0)
    users = users_of(world, USERS)
    ids_UX = np.tile(np.arange(100, dtype=np.int32), (40, 1))
    found = utility(world.config, world.catalog, users, ids_UX, np.full(40, START_MS))
    assert (found == found[:, :1]).all()
    assert np.ptp(found[:, 0]) > 0


def test_zero_share_is_of_quick_skips_and_zero_leaves_none():
    played = {
        share: live(tiny_world(zero_share=share), USERS[:8], days=0)[1][0].impressions
        for share in (0.0, 0.3, 0.9)
    }
    zero = {share: (columns["play_time_ms"] == 0).mean() for share, columns in played.items()}
    # Half a millisecond is rounded to nothing as well.
    assert zero[0.0] < 0.01
    assert zero[0.0] < zero[0.3] < zero[0.9]


def test_longer_videos_are_watched_longer_and_skipped_more_often():
    duration_s = np.array([8.0, 35.1, 150.0])
    on = watch_distribution(
        dataclasses.replace(TINY, duration_gain=0.5, duration_skip=0.7), np.zeros(3), duration_s
    )
    assert (np.diff(on.log_mean) > 0).all()
    assert (np.diff(on.skip) > 0).all()
    np.testing.assert_allclose(np.diff(on.log_mean), 0.5 * np.diff(np.log(duration_s)))
    off = watch_distribution(
        dataclasses.replace(TINY, duration_gain=0.0, duration_skip=0.0), np.zeros(3), duration_s
    )
    assert np.ptp(off.log_mean) == np.ptp(off.skip) == 0.0
    # The unit of duration is KuaiRand's median: there the knobs change nothing.
    np.testing.assert_allclose(on.skip[1], off.skip[1])


@pytest.mark.parametrize("name", sorted(FEEDBACK))
def test_a_gain_of_feedback_goes_with_utility_and_zero_ignores_it(name):
    field = f"{name.removeprefix('is_')}_gain"
    utility = np.array([-1.0, 1.0])
    sign = -1 if name == "is_hate" else 1
    for gain in (0.0, 0.5, 1.0):
        config = dataclasses.replace(TINY, **{field: gain})
        logit = feedback_logit(config, name, utility, np.zeros(2), np.zeros(2))
        assert logit[1] - logit[0] == pytest.approx(2 * sign * gain)


def test_without_refreshing_a_slate_ends_only_by_leaving():
    lengths = {}
    for rate in (0.0, 0.1, 0.6):
        world = tiny_world(refresh_rate=rate, leave_level=-30.0)
        columns = live(world, USERS[:6], days=0)[1][0].impressions
        lengths[rate] = np.unique(columns["request_id"], return_counts=True)[1].mean()
    assert lengths[0.0] == TINY.slate_size
    assert lengths[0.0] > lengths[0.1] > lengths[0.6]


def test_random_slots_come_as_often_as_the_setting_says_and_not_at_zero():
    for share in (0.0, 0.08):
        columns = live(tiny_world(rand_share=share), USERS[:20], days=0)[1][0].impressions
        assert columns["is_rand"].mean() == pytest.approx(share, abs=0.02)


def test_a_steeper_slope_concentrates_popularity_and_zero_has_none():
    tops = [
        np.sort(tiny_world(popularity_slope=slope).catalog.observed.popularity_N)[-12:].sum()
        for slope in (0.0, 0.7, 1.4)
    ]
    assert tops[0] == pytest.approx(12 / TINY.num_items)
    assert tops[0] < tops[1] < tops[2]


def _asking(world):
    """What the earlier policy is given for users without histories."""
    shard = ShardState.new(world, USERS)
    profiles = long_profiles(world.catalog.observed, shard.histories, shard.user_ids)
    zeros = np.zeros(len(USERS), np.int32)
    query = make_query(
        world.config, shard.histories, profiles, user_id_U=USERS, day_U=zeros, session_U=zeros,
        round_U=zeros, time_ms_U=np.full(len(USERS), START_MS), num_candidates=80,
    )  # fmt: skip
    candidates = world.retrieval.retrieve(query)
    return query, profiles, candidates


def _mean_log_popularity(world):
    slates = choose_slates(world.catalog.observed, world.config, *_asking(world))
    return np.log(world.catalog.observed.popularity_N[slates]).mean()


def test_the_earlier_policy_follows_popularity_as_far_as_told():
    found = [_mean_log_popularity(tiny_world(policy_popularity=p)) for p in (0.0, 0.3, 2.0)]
    assert found[0] < found[1] < found[2]


def test_luck_in_the_earlier_policy_is_off_at_zero():
    # Nothing is known of users without histories: what is left is popularity, and luck.
    calm, lucky = tiny_world(policy_noise=0.0), tiny_world(policy_noise=5.0)
    for world, follows in ((calm, True), (lucky, False)):
        query, profiles, candidates = _asking(world)
        observed = world.catalog.observed
        slates = choose_slates(observed, world.config, query, profiles, candidates)
        popularity_UC = observed.popularity_N[candidates.ids_UC]
        best_UK = np.sort(popularity_UC, axis=1)[:, ::-1][:, : world.config.slate_size]
        assert np.array_equal(observed.popularity_N[slates], best_UK) == follows


def test_noisy_retrieval_finds_other_candidates_each_round():
    shared = {}
    for noise in (0.0, 3.0):
        world = tiny_world(retrieval_noise=noise)
        shard, _ = live(world, USERS[:8], days=0)
        users = shard.user_ids
        profiles = long_profiles(world.catalog.observed, shard.histories, users)
        zeros = np.zeros(len(users), np.int32)
        found = []
        for turn in (0, 1):
            query = make_query(
                world.config, shard.histories, profiles, user_id_U=users, day_U=zeros,
                session_U=zeros, round_U=zeros + turn,
                time_ms_U=np.full(len(users), START_MS), num_candidates=80,
            )  # fmt: skip
            candidates = world.retrieval.retrieve(query)
            by_content = candidates.channels_UC <= 1
            found.append([set(i[c]) for i, c in zip(candidates.ids_UC, by_content, strict=True)])
        shared[noise] = np.mean([len(a & b) / max(len(a), 1) for a, b in zip(*found, strict=True)])
    assert shared[0.0] > 0.9
    assert shared[3.0] < shared[0.0] - 0.1


def test_a_negative_skew_shortens_the_longest_histories():
    many = np.arange(20_000, dtype=np.int32)
    found = {}
    for skew in (-0.47, 0.0):
        config = dataclasses.replace(
            TINY, history_skew=skew, history_median=8_571.0, history_log_sd=0.94, min_history=1,
            longest_prehistory=10**7,
        )  # fmt: skip
        found[skew] = history_targets(config, users_of(tiny_world(), many))
    # KuaiRand-27K's quantiles, digitised: 1,421 and 4,511 and 8,571 and 15,149 and 53,372.
    quantiles = np.percentile(found[-0.47], [5, 25, 50, 75, 99])
    np.testing.assert_allclose(quantiles, [1_421, 4_511, 8_571, 15_149, 53_372], rtol=0.06)
    assert np.percentile(found[0.0], 99) > 1.3 * quantiles[-1]
    assert np.median(found[0.0]) == pytest.approx(8_571, rel=0.01)


def test_interests_are_graded_by_their_spread_and_alike_at_zero():
    spread = {}
    for value in (0.0, 0.6, 1.2):
        world = tiny_world(interest_spread=value)
        spread[value] = np.log(users_of(world, USERS).weight_UM).std()
    assert spread[0.0] == 0.0
    assert 0.0 < spread[0.6] < spread[1.2]


def test_a_sleeping_interest_weighs_little_and_at_zero_as_much_as_awake():
    world = tiny_world()
    users = users_of(world, USERS)
    awake = users.take(np.arange(len(USERS)))
    awake.awake_UM[:] = True
    apart = {}
    for value in (0.0, 0.5, 0.95):
        config = dataclasses.replace(world.config, dormancy=value)
        difference = interest_matrix(config, users) - interest_matrix(config, awake)
        apart[value] = np.abs(difference).mean()
    assert apart[0.0] == 0.0
    assert 0.0 < apart[0.5] < apart[0.95]
