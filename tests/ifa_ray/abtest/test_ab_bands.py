"""Simultaneous bands and the series of days that they are drawn around."""

import ab_logs
import numpy as np
import pytest
from scipy import stats

from ifa_ray.abtest import analyze
from ifa_ray.abtest.logs import run_logs
from ifa_ray.abtest.series import (
    band_of_moments,
    band_over_replicates,
    lift_moments,
    shrunk_correlation,
)


def misses(band, *, simultaneous):
    low, high = band.bounds(simultaneous=simultaneous)
    return bool(((low > 0) | (high < 0)).any())


def test_of_one_day_the_band_is_the_interval():
    lifts = np.array([[0.01], [0.03], [0.02], [0.05]])
    band = band_over_replicates(lifts, 0.05)
    assert band.factor == pytest.approx(stats.t.isf(0.025, 3), rel=0.03)
    assert band.factor >= band.pointwise


def test_independent_days_need_sidaks_factor():
    band = band_of_moments(np.zeros(14), np.eye(14), df=10_000, alpha=0.05)
    assert band.factor == pytest.approx(stats.norm.isf((1 - 0.95 ** (1 / 14)) / 2), rel=0.02)


def test_days_that_are_one_and_the_same_need_no_more_than_one():
    band = band_of_moments(np.zeros(5), np.ones((5, 5)), df=10_000, alpha=0.05)
    assert band.factor == pytest.approx(1.96, rel=0.02)


def test_a_day_without_spread_breaks_nothing():
    lifts = np.array([[0.0, 0.1], [0.0, 0.2], [0.0, 0.4]])
    band = band_over_replicates(lifts, 0.05)
    assert band.se_D[0] == 0
    assert np.isfinite(band.factor)


def test_pointwise_misses_on_some_day_often_and_sup_t_does_not():
    # 250 A/A runs of 400 users and 14 days, whose days are alike.
    rng = np.random.default_rng(8)
    point = joint = 0
    for _ in range(250):
        taste = rng.gamma(2.0, 1.0, (400, 1))
        own, other = taste * rng.gamma(2.0, 0.5, (2, 400, 14)) * rng.gamma(4, 0.25, (2, 400, 1))
        lifts, covariance = lift_moments(own, other, paired=True)
        band = band_of_moments(lifts, covariance, 399, 0.05, rng, draws=3_000)
        point += misses(band, simultaneous=False)
        joint += misses(band, simultaneous=True)
    assert point / 250 > 0.12
    assert 0.015 <= joint / 250 <= 0.09  # 3.3 standard errors around 5%


def test_band_over_five_replicates_holds_its_level():
    rng = np.random.default_rng(9)
    missed = 0
    for _ in range(150):
        lifts = rng.normal(0, 1, (5, 14)) + rng.normal(0, 0.7, (5, 1))
        missed += misses(band_over_replicates(lifts, 0.05, rng, draws=2_000), simultaneous=True)
    assert missed / 150 <= 0.10


def test_shrinking_keeps_ones_and_moves_towards_independence():
    rng = np.random.default_rng(10)
    days = rng.normal(size=(6, 4)) + rng.normal(size=(6, 1))
    shrunk, raw = shrunk_correlation(days), np.corrcoef(days, rowvar=False)
    assert np.diag(shrunk) == pytest.approx(np.ones(4))
    off = ~np.eye(4, dtype=bool)
    assert (np.abs(shrunk[off]) < np.abs(raw[off])).all()
    assert np.linalg.eigvalsh(shrunk).min() > 0


def test_moments_of_lifts_are_those_of_the_bootstrap():
    rng = np.random.default_rng(11)
    taste = rng.gamma(2.0, 1.0, (300, 1))
    own, other = taste * rng.gamma(4.0, 0.25, (2, 300, 3))
    for paired in (True, False):
        lifts, covariance = lift_moments(own, other, paired=paired)
        draws = []
        for _ in range(2_000):
            i = rng.integers(0, 300, 300)
            j = i if paired else rng.integers(0, 300, 300)
            draws.append(np.log(own[i].sum(0)) - np.log(other[j].sum(0)))
        assert lifts == pytest.approx(np.log(own.sum(0) / other.sum(0)))
        expected = np.cov(np.array(draws), rowvar=False)
        assert covariance == pytest.approx(expected, abs=0.1 * expected[0, 0])


def test_the_last_cumulative_day_is_the_whole_effect(tmp_path):
    result = analyze(ab_logs.make_run(tmp_path, days=4, lifts={"ifa": 0.2}, replicates=4))
    effect, last = result["effects"]["ifa"]["watch_time"], result["cumulative"]["ifa"][-1]
    assert last["relative"] == pytest.approx(effect["relative"])
    assert last["interval"] == pytest.approx(effect["interval"])
    assert last["checkpoint_interval"] == pytest.approx(effect["checkpoint"]["interval"], rel=1e-2)
    assert [row["day"] for row in result["cumulative"]["ifa"]] == [1, 2, 3]
    for row in result["daily"]["ifa"]:
        assert row["band"][0] <= row["interval"][0] < row["interval"][1] <= row["band"][1]


def test_a_day_on_which_nobody_watched_has_no_effect_and_takes_none_away(tmp_path):
    given = ab_logs.write_run(tmp_path, days=3)
    for replicate in range(3):
        day = ab_logs.make_day(1, given["items"][replicate], given["user_ids"][replicate])
        ab_logs.write(tmp_path, "ifa", replicate, 1, {**day, "play_time_ms": 0 * day["time_ms"]})
    rows = analyze(run_logs(**given))["daily"]["ifa"]
    assert [row["relative"] is None for row in rows] == [False, True, False]
    assert rows[2]["band"] is not None
