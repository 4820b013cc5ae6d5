"""KuaiRand's rules at their boundaries, and one watch draw from which all else follows."""

import dataclasses

import numpy as np
import pytest

from simulator.world.config import uncalibrated_config
from simulator.world.responses import (
    FEEDBACK,
    Watch,
    expected_play_s,
    feedback,
    is_click,
    is_long_view,
    play_exceeds,
    play_time_s,
    watch_distribution,
)

CONFIG = uncalibrated_config("quick")
EVEN = (np.arange(200_000) + 0.5) / 200_000


@pytest.mark.parametrize(
    ("play_ms", "duration_ms", "click"),
    [
        (6_999, 7_000, False), (7_000, 7_000, True), (3_000, 3_000, True), (2_999, 3_000, False),
        (7_000, 7_001, False), (7_001, 7_001, True), (7_000, 60_000, False), (7_001, 60_000, True),
    ],
)  # fmt: skip
def test_click_follows_the_rule(play_ms, duration_ms, click):
    assert bool(is_click(np.array([play_ms]), np.array([duration_ms]))[0]) is click


@pytest.mark.parametrize(
    ("play_ms", "duration_ms", "long_view"),
    [
        (17_999, 18_000, False), (18_000, 18_000, True), (17_999, 18_001, False),
        (18_000, 18_001, True), (18_000, 90_000, True), (17_999, 90_000, False),
        (5_000, 5_000, True), (4_999, 5_000, False),
    ],
)  # fmt: skip
def test_long_view_follows_the_rule(play_ms, duration_ms, long_view):
    assert bool(is_long_view(np.array([play_ms]), np.array([duration_ms]))[0]) is long_view


def watch_at(utility, duration_s):
    shape = np.broadcast(utility, duration_s).shape
    return watch_distribution(
        CONFIG, np.broadcast_to(utility, shape).astype(float),
        np.broadcast_to(duration_s, shape).astype(float),
    )  # fmt: skip


def test_play_stops_at_the_duration_unless_the_video_loops():
    watch = watch_at(3.0, np.full(EVEN.shape, 12.0))
    cut = play_time_s(watch, EVEN, np.zeros(EVEN.shape, bool))
    looped = play_time_s(watch, EVEN, np.ones(EVEN.shape, bool))
    assert cut.max() == 12.0
    assert 12.0 < looped.max() <= 36.0
    np.testing.assert_array_equal(cut, np.minimum(looped, 12.0))


def test_more_utility_never_turns_a_watch_into_a_skip_nor_shortens_it():
    u = EVEN[::1000]
    loops = np.zeros(u.shape, bool)
    low, high = watch_at(-1.0, np.full(u.shape, 60.0)), watch_at(1.0, np.full(u.shape, 60.0))
    watched = u >= low.skip
    assert (u[watched] >= high.skip[watched]).all()
    longer = play_time_s(high, u, loops)[watched] - play_time_s(low, u, loops)[watched]
    assert (longer >= 0).all()
    assert longer.mean() > 1.0


def test_expected_play_grows_with_utility():
    expected = expected_play_s(watch_at(np.linspace(-3, 3, 25), 60.0), CONFIG.replay_share)
    assert (np.diff(expected) > 0).all()


@pytest.mark.parametrize("utility", [-1.5, 0.0, 1.5])
@pytest.mark.parametrize("duration_s", [5.0, 35.0, 250.0])
def test_closed_forms_agree_with_an_even_grid_of_draws(utility, duration_s):
    watch = watch_at(utility, np.full(EVEN.shape, duration_s))
    once = play_time_s(watch, EVEN, np.zeros(EVEN.shape, bool))
    looped = play_time_s(watch, EVEN, np.ones(EVEN.shape, bool))
    share = CONFIG.replay_share
    expected = expected_play_s(watch_at(utility, duration_s), share)
    assert float(expected) == pytest.approx(
        (1 - share) * once.mean() + share * looped.mean(), rel=2e-3
    )
    for threshold in (3.0, min(duration_s, 18.0)):
        p = float(play_exceeds(watch_at(utility, duration_s), np.array(threshold)))
        assert p == pytest.approx((once >= threshold).mean(), abs=2e-4)


def test_a_skip_is_quick_and_part_of_it_plays_nothing():
    watch = Watch(
        skip=np.full(EVEN.shape, 0.5), zero_share=0.4, skip_mean_s=1.6,
        log_mean=np.full(EVEN.shape, 3.0), log_sd=1.0, duration_s=np.full(EVEN.shape, 60.0),
    )  # fmt: skip
    play = play_time_s(watch, EVEN, np.zeros(EVEN.shape, bool))
    assert (play == 0).mean() == pytest.approx(0.5 * 0.4, abs=1e-4)
    assert np.median(play[EVEN < 0.5]) < 2.0


def columns(utility, play_ms, duration_ms, config=CONFIG, n=200_000):
    keys = (np.arange(n), 0, 0, 1)
    full = np.full(n, utility, float)
    return feedback(config, 3, keys, full, np.full(n, play_ms, np.int32), np.full(n, duration_ms))


def test_likes_come_with_watching_and_hate_with_low_interest():
    loved, bored = columns(2.0, 60_000, 60_000), columns(-2.0, 500, 60_000)
    for name in ("is_like", "is_comment", "is_follow", "is_forward"):
        assert loved[name].mean() > 2 * bored[name].mean()
    assert bored["is_hate"].mean() > 2 * loved["is_hate"].mean()


def test_a_skip_is_never_a_click_or_a_long_view():
    skipped = columns(2.0, 500, 60_000, n=10)
    assert skipped["is_click"].sum() == skipped["long_view"].sum() == 0
    assert set(skipped) == {"is_click", "long_view", *FEEDBACK}


def test_watch_gain_zero_makes_watching_ignore_utility():
    flat = dataclasses.replace(CONFIG, watch_gain=0.0)
    low, high = (
        watch_distribution(flat, np.array([v]), np.array([30.0])).log_mean for v in (-2.0, 2.0)
    )
    assert low == high
