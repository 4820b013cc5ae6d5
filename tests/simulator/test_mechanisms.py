"""Each mechanism moves what it should, in the direction it should, and zero switches it off."""

import dataclasses

import numpy as np
import pytest
from tiny_worlds import TINY, live, tiny_world, users_of

from ifa_ray.errors import ConfigError
from simulator.world.config import DAY_MS, START_MS, WorldConfig
from simulator.world.policy import choose_slates, expected_watch_s
from simulator.world.queries import long_profiles, make_query
from simulator.world.responses import FEEDBACK, bias, feedback_logit, utility, watch_distribution
from simulator.world.slates import scroll
from simulator.world.users import (
    JOY_UNIT,
    SessionState,
    drift,
    history_targets,
    interest_matrix,
    leave_probability,
    mood_topics,
    plan_day,
    remember_authors,
    satisfy,
)
from simulator.world.world import ShardState

USERS = np.arange(40, dtype=np.int32)
OFF = dict.fromkeys(
    ("interest_gain", "mood_gain", "loyalty_gain", "taste_gain", "quality_gain", "freshness_gain",
     "popularity_gain", "bias_sd"), 0.0,
)  # fmt: skip


def only(**gains):
    """A world in which the given mechanisms alone make utility."""
    return tiny_world(**{**OFF, **gains})


def utility_of(world, users, ids, time_ms=START_MS, mood=None):
    ids_UX = np.broadcast_to(np.asarray(ids, np.int32), (len(users), len(ids)))
    times = np.full(len(users), time_ms)
    return utility(world.config, world.catalog, users, ids_UX, times, mood)


def slope(x, y):
    return np.polyfit(x, y, 1)[0]


ALL_ITEMS = np.arange(0, 1_000)


def test_with_every_gain_at_zero_all_items_are_alike():
    world = only()
    np.testing.assert_array_equal(utility_of(world, users_of(world, USERS), ALL_ITEMS), 0.0)


def test_users_prefer_items_of_their_interests():
    world = only(interest_gain=1.0)
    users = users_of(world, USERS)
    found = utility_of(world, users, ALL_ITEMS)
    interest_UK = interest_matrix(world.config, users)
    pure = world.catalog.mix_N[ALL_ITEMS] < 0.02
    for row in range(len(USERS)):
        best, worst = interest_UK[row].argmax(), interest_UK[row].argmin()
        topic = world.catalog.topic_N[ALL_ITEMS]
        assert found[row, pure & (topic == best)].min() > found[row, pure & (topic == worst)].max()


def test_a_mood_lifts_its_topic_and_only_its_topic():
    world = only(mood_gain=1.0)
    users = users_of(world, USERS)
    topics, second = world.catalog.topic_N[ALL_ITEMS], world.catalog.second_N[ALL_ITEMS]
    found = utility_of(world, users, ALL_ITEMS, mood=np.full(len(USERS), 7, np.int32))
    assert (found[:, topics == 7] > 0).all()
    assert (found[:, (topics != 7) & (second != 7)] == 0).all()


def test_moods_are_drawn_from_the_users_own_awake_interests():
    world = tiny_world()
    users = users_of(world, USERS)
    mostly = 0
    for session in range(20):
        mood = mood_topics(TINY, 1, users, np.zeros(40, np.int32), np.full(40, session, np.int32))
        own = (users.topic_UM == mood[:, None]) & users.awake_UM
        mostly += own.any(axis=1).mean() / 20
        assert (users.topic_UM == mood[:, None]).any(axis=1).all()
    assert mostly > 0.9


def test_loyalty_grows_with_long_views_of_the_author():
    world = only(loyalty_gain=1.0)
    users = users_of(world, USERS)
    author_N = world.catalog.item_table().author_id_N
    loved = int(author_N[0])
    before = utility_of(world, users, [0])
    history = []
    for _ in range(4):
        remember_authors(users, np.full((40, 1), loved, np.int32), np.ones((40, 1), bool))
        history.append(utility_of(world, users, [0])[0, 0])
    assert before[0, 0] == 0.0
    assert (np.diff([0.0, *history]) > 0).all()
    scale = world.config.utility_scale
    np.testing.assert_allclose(history, scale * np.log1p([1, 2, 3, 4]))
    other = np.flatnonzero(author_N != loved)[:5]
    assert (utility_of(world, users, other) == 0.0).all()


def test_the_memory_of_authors_is_the_latest_long_views_only():
    world = only(loyalty_gain=1.0)
    users = users_of(world, USERS[:1])
    capacity = users.loved_UL.shape[1]
    remember_authors(users, np.zeros((1, 1), np.int32), np.ones((1, 1), bool))
    for _ in range(capacity):
        remember_authors(users, np.array([[5, 9]], np.int32), np.array([[True, False]]))
    assert (users.loved_UL == 5).all()


def test_taste_crosses_topics():
    world = only(taste_gain=1.0)
    users = users_of(world, USERS)
    found = utility_of(world, users, ALL_ITEMS)
    style = world.catalog.style_NS[ALL_ITEMS]
    for s in range(style.shape[1]):
        slopes = [slope(style[:, s], found[row]) for row in range(len(USERS))]
        assert np.corrcoef(slopes, users.taste_US[:, s])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("gain", "column"), [("quality_gain", "quality_N"), ("popularity_gain", "log_popularity_N")]
)
def test_quality_and_popularity_please_everybody_alike(gain, column):
    world = only(**{gain: 0.5})
    found = utility_of(world, users_of(world, USERS), ALL_ITEMS)
    hidden = getattr(world.catalog, column)[ALL_ITEMS]
    np.testing.assert_allclose(found, np.tile(0.5 * world.config.utility_scale * hidden, (40, 1)))


def test_an_item_is_fresh_when_it_is_young():
    world = only(freshness_gain=1.0)
    users = users_of(world, USERS[:1])
    upload = int(world.catalog.item_table().upload_ms_N[900])
    at = [utility_of(world, users, [900], upload + d * DAY_MS)[0, 0] for d in (0, 1, 3, 30)]
    scale = world.config.utility_scale
    np.testing.assert_allclose(at, scale * np.exp(-np.array([0, 1, 3, 30]) / 3.0))


def test_an_eager_user_watches_everything_longer():
    world = tiny_world()
    users = users_of(world, USERS)
    eager = dataclasses.replace(users, bias_U=users.bias_U + 1.0)
    ids = np.tile(np.arange(50, dtype=np.int32), (40, 1))
    now = np.full(40, START_MS)
    assert (
        expected_watch_s(world, eager, ids, now) > expected_watch_s(world, users, ids, now)
    ).all()
    assert (bias(only(bias_sd=0.0).config, users) == 0).all()


def test_interests_drift_slowly_and_not_at_rate_zero():
    world = tiny_world()
    shares = {}
    for rate in (0.0, 0.01, 0.1):
        config = dataclasses.replace(TINY, drift_rate=rate)
        users = users_of(world, np.arange(500, dtype=np.int32))
        before = users.take(np.arange(500))
        for day in range(-30, -20):
            drift(config, 1, users, np.full(500, day, np.int32))
        changed = (users.topic_UM != before.topic_UM) | (users.awake_UM != before.awake_UM)
        shares[rate] = changed.mean()
    assert shares[0.0] == 0.0
    assert 0.05 < shares[0.01] < 0.11  # at most 1 - .99 ** 10 = .096, some return
    assert shares[0.1] > 4 * shares[0.01]


def test_dormant_interests_wake_up_again():
    world = tiny_world()
    config = dataclasses.replace(TINY, drift_rate=0.1)
    users = users_of(world, np.arange(200, dtype=np.int32))
    asleep = ~users.awake_UM
    topics = users.topic_UM.copy()
    for day in range(-30, -20):
        drift(config, 1, users, np.full(200, day, np.int32))
    assert (users.awake_UM & asleep & (users.topic_UM == topics)).any()


def test_drift_of_days_away_happens_at_once():
    world = tiny_world()
    config = dataclasses.replace(TINY, drift_rate=0.05)
    users = users_of(world, np.arange(2_000, dtype=np.int32))
    before = users.topic_UM.copy(), users.awake_UM.copy()
    drift(config, 1, users, users.last_day_U + np.int32(10))
    changed = (users.topic_UM != before[0]) | (users.awake_UM != before[1])
    # A fresh topic may be the old one and stay awake: slightly fewer changes than draws.
    assert changed.mean() == pytest.approx(1 - 0.95**10, abs=0.02)


def scrolled(world, ids, joy_shift=0.0, users=USERS):
    state = users_of(world, users)
    session = SessionState.new(world.config, np.zeros(len(users), np.int32))
    slate = np.broadcast_to(np.asarray(ids, np.int32), (len(users), len(ids))).copy()
    keys = (users[:, None], 0, 0, slate)
    fresh = utility_of(world, state, ids) + joy_shift
    return scroll(
        world.config, world.seed, world.catalog, session, keys, slate, fresh,
        bias(world.config, state),
    ), fresh  # fmt: skip


def same_author_slate(world):
    author_N = world.catalog.item_table().author_id_N[:700]
    return np.flatnonzero(author_N == np.bincount(author_N).argmax())[:6]


def test_the_second_item_of_an_author_bores_and_zero_switches_it_off():
    for gain in (0.0, 0.5):
        world = tiny_world(
            author_boredom=gain, topic_boredom=0.0, leave_level=-20.0, refresh_rate=0.0
        )
        seen, fresh = scrolled(world, same_author_slate(world))
        lost = fresh - seen.utility_UK
        scale = world.config.utility_scale
        np.testing.assert_allclose(lost, np.tile(gain * scale * np.arange(6), (40, 1)), atol=1e-12)


def test_a_repeated_topic_bores_more_than_a_change_of_topics():
    world = tiny_world(author_boredom=0.0, topic_boredom=0.5, leave_level=-20.0, refresh_rate=0.0)
    topic_N = world.catalog.topic_N[:700]
    same = np.flatnonzero(topic_N == np.bincount(topic_N).argmax())[:6]
    mixed = [int(np.flatnonzero(topic_N == k)[0]) for k in range(6)]
    lost = {}
    for name, ids in (("same", same), ("mixed", mixed)):
        seen, fresh = scrolled(world, ids)
        lost[name] = (fresh - seen.utility_UK).sum()
    assert lost["same"] > 2 * lost["mixed"]
    off = tiny_world(author_boredom=0.0, topic_boredom=0.0, leave_level=-20.0, refresh_rate=0.0)
    seen, fresh = scrolled(off, same)
    np.testing.assert_array_equal(seen.utility_UK, fresh)


def test_the_first_position_is_always_seen_and_what_is_seen_is_a_prefix():
    seen, _ = scrolled(tiny_world(leave_level=0.0, refresh_rate=0.5), np.arange(8))
    assert seen.seen_UK[:, 0].all()
    assert (np.diff(seen.seen_UK.astype(int), axis=1) <= 0).all()
    assert 0 < seen.left_U.mean() < 1


def test_users_stay_longer_when_they_enjoy_what_they_see():
    many = np.arange(400, dtype=np.int32)
    world = tiny_world(leave_level=-2.0, refresh_rate=0.0)
    dull, _ = scrolled(world, np.arange(8), -1.5, many)
    good, _ = scrolled(world, np.arange(8), +1.5, many)
    assert good.seen_UK.sum() > 1.1 * dull.seen_UK.sum()
    # The same draws: who left a good slate at a position was not still on the dull one after it.
    assert (good.seen_UK | ~dull.seen_UK).all()
    indifferent = tiny_world(leave_level=-2.0, refresh_rate=0.0, leave_gain=0.0)
    dull, _ = scrolled(indifferent, np.arange(8), -1.5, many)
    good, _ = scrolled(indifferent, np.arange(8), +1.5, many)
    np.testing.assert_array_equal(dull.seen_UK, good.seen_UK)


def test_the_hazard_of_leaving_is_the_level_at_usual_joy():
    config = dataclasses.replace(TINY, leave_level=-3.0, leave_gain=1.0, joy_level=0.4)
    joys = np.array([0.4, 0.4 + JOY_UNIT, 0.4 - JOY_UNIT])
    expected = 1 / (1 + np.exp(-np.array([-3.0, -4.0, -2.0])))
    np.testing.assert_allclose(leave_probability(config, joys), expected)


def test_satisfied_users_come_back_more_often():
    world = tiny_world()
    many = np.arange(3_000, dtype=np.int32)
    came = {}
    for shift in (-0.2, 0.0, 0.2):
        users = users_of(world, many)
        users.satisfaction_U += shift
        came[shift] = (plan_day(world.config, 1, users, 0)[0] > 0).mean()
        indifferent = dataclasses.replace(world.config, return_gain=0.0)
        came[shift, "off"] = (plan_day(indifferent, 1, users, 0)[0] > 0).mean()
    assert came[-0.2] < came[0.0] - 0.1
    assert came[0.0] < came[0.2]
    assert came[-0.2, "off"] == came[0.2, "off"]


def test_satisfaction_follows_what_was_seen_and_ignores_what_was_not():
    world = tiny_world()
    users = users_of(world, USERS[:2])
    start = users.satisfaction_U.copy()
    joy = np.ones((2, 3))
    satisfy(users, joy, np.array([[True, True, False], [False, False, False]]))
    assert start[0] < users.satisfaction_U[0] < 1.0
    assert users.satisfaction_U[1] == start[1]
    by_hand = start[0] + 0.01 * (1 - start[0])
    by_hand += 0.01 * (1 - by_hand)
    assert users.satisfaction_U[0] == pytest.approx(by_hand)


def test_active_users_come_more_often_have_longer_histories_and_click_less():
    world = tiny_world()
    users = users_of(world, np.arange(4_000, dtype=np.int32))
    active = users.activity_U > 1
    idle = users.activity_U < -1
    came = plan_day(world.config, 1, users, 0)[0]
    assert came[active].mean() > 1.2 * came[idle].mean()
    assert (
        history_targets(TINY, users)[active].mean() > 2 * history_targets(TINY, users)[idle].mean()
    )
    ranks = [np.argsort(np.argsort(x)) for x in (users.activity_U, users.bias_U)]
    assert np.corrcoef(*ranks)[0, 1] == pytest.approx(-0.518, abs=0.03)
    alike = users_of(tiny_world(activity_spread=0.0), np.arange(4_000, dtype=np.int32))
    assert abs(np.corrcoef(alike.activity_U, alike.bias_U)[0, 1]) < 0.05


def test_means_of_few_users_vary_less_than_those_of_independent_draws():
    users = np.arange(64, dtype=np.int32)
    populations = [users_of(tiny_world(seed), users) for seed in range(20)]
    for trait in ("activity_U", "bias_U"):
        means = np.array([getattr(each, trait).mean() for each in populations])
        assert means.std() < 0.6 / np.sqrt(64)
        pooled = np.concatenate([getattr(each, trait) for each in populations])
        assert pooled.mean() == pytest.approx(0.0, abs=0.05)
        assert pooled.std() == pytest.approx(1.0, abs=0.05)


def test_any_subset_of_users_in_any_order_is_the_same_users():
    world = tiny_world()
    whole = users_of(world, USERS).to_arrays()
    some = np.array([31, 2, 17], np.int32)
    for name, array in users_of(world, some).to_arrays().items():
        np.testing.assert_array_equal(array, whole[name][some], err_msg=name)


def test_sessions_of_a_day_start_in_order_inside_the_day():
    world = tiny_world()
    users = users_of(world, np.arange(2_000, dtype=np.int32))
    count, start = plan_day(world.config, 1, users, 5)
    assert (np.diff(start, axis=1) >= 0).all()
    first = start[count > 0, 0]
    assert first.min() >= START_MS + 5 * DAY_MS
    assert first.max() < START_MS + 6 * DAY_MS
    assert 0 < (count == 0).mean() < 0.4
    assert count.max() <= world.config.max_sessions
    hour = (first - START_MS - 5 * DAY_MS) // 3_600_000
    assert (hour == 4).mean() < 0.3 * (hour == 21).mean()


def test_content_is_a_view_of_topics_that_noise_blurs():
    gaps = {}
    for noise in (0.0, 0.5, 2.0):
        world = tiny_world(content_noise=noise)
        content = world.catalog.item_table().content_ND[:400]
        same = world.catalog.topic_N[:400, None] == world.catalog.topic_N[:400]
        similar = content @ content.T
        off_diagonal = ~np.eye(400, dtype=bool)
        gaps[noise] = similar[same & off_diagonal].mean() - similar[~same].mean()
    assert gaps[0.0] > gaps[0.5] > gaps[2.0] > 0


def test_category_labels_are_wrong_as_often_as_the_setting_says():
    right = {}
    for noise in (0.0, 0.4):
        world = tiny_world(category_noise=noise)
        right[noise] = (world.catalog.item_table().category_N == world.catalog.topic_N // 2).mean()
    assert right[0.0] == 1.0
    assert right[0.4] == pytest.approx(1 - 0.4 * 11 / 12, abs=0.05)  # 12 categories: luck helps


def test_looping_is_off_at_zero():
    watched = live(tiny_world(replay_share=0.0), USERS[:8], days=0)[1][0].impressions
    assert (watched["play_time_ms"] <= watched["duration_ms"]).all()
    looped = live(tiny_world(replay_share=1.0), USERS[:8], days=0)[1][0].impressions
    assert (looped["play_time_ms"] > looped["duration_ms"]).any()


def test_items_keep_arriving_and_video_ids_are_in_order_of_upload():
    catalog = tiny_world().catalog
    upload = catalog.item_table().upload_ms_N
    assert (np.diff(upload) >= 0).all()
    begin = START_MS - TINY.warmup_days * DAY_MS
    assert (upload < begin).mean() == pytest.approx(TINY.live_share, abs=0.01)
    days = [np.searchsorted(upload, START_MS + d * DAY_MS) for d in (0, 5, 10)]
    assert days[0] < days[1] < days[2]
    assert catalog.observed.num_live(upload[7:8])[0] >= 8


@pytest.mark.parametrize("knob", [field.name for field in dataclasses.fields(WorldConfig)])
def test_no_mechanism_has_a_negative_knob_and_all_may_be_zero(knob):
    if knob.endswith(("_gain", "_boredom", "_noise", "_spread", "_slope", "_rate", "_bias")):
        with pytest.raises(ConfigError, match=f"{knob} == -0.1, must be"):
            dataclasses.replace(TINY, **{knob: -0.1})
        if knob not in ("active_rate", "sample_rate"):
            dataclasses.replace(TINY, **{knob: 0.0})


def test_busy_users_are_less_eager_and_at_zero_as_eager_as_others():
    many = np.arange(4_000, dtype=np.int32)
    found = {}
    for value in (0.0, 0.3, 0.6):
        users = users_of(tiny_world(activity_bias=value), many)
        found[value] = np.corrcoef(users.activity_U, users.bias_U)[0, 1]
    assert found[0.0] == pytest.approx(0.0, abs=0.04)
    assert found[0.3] == pytest.approx(-0.3, abs=0.04)
    assert found[0.6] == pytest.approx(-0.6, abs=0.04)


def test_at_utility_scale_zero_all_items_are_alike_to_a_user():
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


def test_a_steeper_slope_concentrates_popularity_and_zero_has_none():
    tops = [
        np.sort(tiny_world(popularity_slope=slope).catalog.observed.popularity_N)[-12:].sum()
        for slope in (0.0, 0.7, 1.4)
    ]
    assert tops[0] == pytest.approx(12 / TINY.num_items)
    assert tops[0] < tops[1] < tops[2]


def asking(world, shard, turn=0):
    """Query, profiles and candidates of a shard's users at the start of day 0."""
    users = shard.user_ids
    profiles = long_profiles(world.catalog.observed, shard.histories, users)
    zeros = np.zeros(len(users), np.int32)
    query = make_query(
        world.config,
        shard.histories,
        profiles,
        user_id_U=users,
        day_U=zeros,
        session_U=zeros,
        round_U=zeros + turn,
        time_ms_U=np.full(len(users), START_MS),
        num_candidates=80,
    )
    return query, profiles, world.retrieval.retrieve(query)


def _mean_log_popularity(world):
    slates = choose_slates(
        world.catalog.observed, world.config, *asking(world, ShardState.new(world, USERS))
    )
    return np.log(world.catalog.observed.popularity_N[slates]).mean()


def test_the_earlier_policy_follows_popularity_as_far_as_told():
    found = [_mean_log_popularity(tiny_world(policy_popularity=p)) for p in (0.0, 0.3, 2.0)]
    assert found[0] < found[1] < found[2]


def test_luck_in_the_earlier_policy_is_off_at_zero():
    # Nothing is known of users without histories: what is left is popularity, and luck.
    calm, lucky = tiny_world(policy_noise=0.0), tiny_world(policy_noise=5.0)
    for world, follows in ((calm, True), (lucky, False)):
        query, profiles, candidates = asking(world, ShardState.new(world, USERS))
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
        found = []
        for turn in (0, 1):
            _, _, candidates = asking(world, shard, turn)
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
