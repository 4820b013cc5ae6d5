"""Measures of a log agree with counting by hand."""

import math

import numpy as np
import pytest

from ifa_ray.schema import ACTIONS
from simulator.calibration.measure import concentration, measure, sessions


def column(*values):
    return np.array(values)


def test_measures_agree_with_counting_by_hand():
    log = {name: np.zeros(6, np.int8) for name in ACTIONS}
    log |= {
        "user_id": column(0, 0, 0, 1, 1, 1),
        "video_id": column(1, 2, 3, 1, 2, 9),
        "request_id": column(0, 0, 1, 2, 2, 2),
        "is_rand": column(0, 0, 0, 0, 0, 1),
        "play_time_ms": column(0, 8_000, 20_000, 2_000, 30_000, 4_000),
        "duration_ms": column(10_000, 10_000, 30_000, 10_000, 60_000, 10_000),
        "is_click": column(0, 1, 1, 0, 1, 0),
        "long_view": column(0, 0, 1, 0, 1, 0),
        "is_like": column(0, 0, 0, 0, 1, 0),
    }
    found = measure(log, np.array([10_000, 20_000, 30_000]))
    assert found["feed_is_click"] == pytest.approx(3 / 5)
    assert found["feed_like_given_click"] == pytest.approx(1 / 3)
    assert found["feed_like_given_no_click"] == 0
    assert found["feed_click_given_long_view"] == 1
    assert found["feed_mean_play_s"] == pytest.approx(12.0)
    assert found["random_mean_play_s"] == pytest.approx(4.0)
    assert found["feed_zero_play"] == pytest.approx(1 / 5)
    assert found["feed_below_3s"] == pytest.approx(2 / 5)
    assert found["feed_impressions_per_request"] == pytest.approx(5 / 3)
    # Plays of the 10 s videos: 8 s and 2 s; the one of 0 s is no play, the fourth is random.
    assert found["feed_ratio_q50"] == pytest.approx(0.5)
    assert found["feed_ratio_beyond_q25"] == pytest.approx(1 / 2)
    assert found["feed_ratio_beyond_q75"] == 0
    assert found["user_click_mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["user_click_sd"] == pytest.approx((2 / 3 - 1 / 2) / 2)
    assert found["history_log_mean"] == pytest.approx((math.log(3) + math.log(2)) / 2)
    assert found["history_log_sd"] == pytest.approx((math.log(3) - math.log(2)) / 2)
    assert found["history_10k_share"] == 0
    assert found["activity_click_spearman"] == pytest.approx(1.0)
    assert found["duration_p50_s"] == pytest.approx(20.0)


def test_concentration_is_over_items_that_were_seen():
    found = concentration(column(1, 2, 3, 1, 2, 9), num_users=2)
    # Items seen 1, 1, 2, 2 times: Gini = 2 (1*1 + 2*1 + 3*2 + 4*2) / (4 * 6) - 5 / 4.
    assert found["gini"] == pytest.approx(2 * 17 / 24 - 5 / 4)
    assert found["top_1pct_share"] == pytest.approx(2 / 6)
    assert found["top_1pct_bound"] == pytest.approx(2 / 6)


def test_sessions_are_cut_at_gaps_of_thirty_minutes_and_at_users():
    minute = 60_000
    user = column(1, 1, 1, 2, 1, 2)
    at = column(0, 10, 45, 0, 39, 31) * minute
    # User 1 at 0, 10, 39, 45 minutes: no gap over 30. User 2 at 0 and 31: one.
    assert sorted(sessions(user, at).tolist()) == [1, 1, 4]
    assert len(sessions(column(), column())) == 0


def test_a_log_without_random_slots_has_no_figures_of_them():
    log = {name: np.zeros(4, np.int8) for name in (*ACTIONS, "is_rand")}
    log |= {
        "user_id": column(0, 0, 1, 1), "video_id": column(1, 2, 1, 2),
        "play_time_ms": column(0, 1, 2, 3), "duration_ms": column(9, 9, 9, 9) * 1_000,
    }  # fmt: skip
    found = measure(log, np.array([9_000]))
    assert not [key for key in found if key.startswith("random")]
    assert "feed_click_given_long_view" not in found  # nobody watched long
    assert "activity_click_spearman" not in found  # all are equally active
