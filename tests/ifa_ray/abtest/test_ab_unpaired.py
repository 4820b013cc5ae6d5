"""The unpaired estimator, by hand and against tea-tasting, and the platform's view."""

import math

import ab_logs
import numpy as np
import polars as pl
import pytest

from ifa_ray.abtest import analyze
from ifa_ray.abtest.estimates import Totals, paired_effect, two_samples
from ifa_ray.abtest.metrics import METRICS
from ifa_ray.abtest.platform import ask_tea_tasting, in_treatment

WATCH = next(metric for metric in METRICS if metric.name == "watch_time")
RATE = next(metric for metric in METRICS if metric.name == "click_rate")


def users(rng, count):
    """Totals of users whose past says much of their present; a tenth never came."""
    taste = rng.gamma(2.0, 1.0, count) * (rng.random(count) > 0.1)
    shown, before = rng.poisson(5 * taste) + 0.0, rng.poisson(9 * taste) + 0.0
    return {
        "watch_time": taste * rng.gamma(4, 25.0, count),
        "pre_watch_time": taste * rng.gamma(4, 40.0, count),
        "impressions": shown,
        "clicks": rng.binomial(shown.astype(int), 0.4) + 0.0,
        "pre_impressions": before,
        "pre_clicks": rng.binomial(before.astype(int), 0.4) + 0.0,
    }


def totals(columns, metric, prefix=""):
    above = columns[prefix + metric.above]
    below = columns[prefix + metric.below] if metric.below else np.ones_like(above)
    return Totals(numerator_U=above, denominator_U=below)


def frame_of(b, a):
    parts = [
        pl.DataFrame({"variant": np.full(len(c["clicks"]), v), **c}) for v, c in ((1, b), (0, a))
    ]
    return pl.concat(parts)


@pytest.mark.parametrize("sizes", [(200, 150), (31, 17)])
@pytest.mark.parametrize("metric", [WATCH, RATE], ids=["mean", "ratio"])
def test_our_unpaired_engine_is_tea_tastings(metric, sizes):
    rng = np.random.default_rng(11)
    b, a = users(rng, sizes[0]), users(rng, sizes[1])
    rows = ask_tea_tasting(frame_of(b, a), [metric], 0.05)["rows"]
    assert [row["cuped"] for row in rows] == [False, True]
    for row in rows:
        past = (totals(b, metric, "pre_"), totals(a, metric, "pre_")) if row["cuped"] else None
        ours = two_samples(totals(b, metric), totals(a, metric), past)
        apart = two_samples(totals(b, metric), totals(a, metric), past, absolute=True)
        assert apart.p_value == pytest.approx(row["p"], abs=1e-9)
        assert ours.interval(0.05) == pytest.approx(row["interval"], abs=1e-9)
        assert apart.log_lift == pytest.approx(row["treatment"] - row["control"])


def test_cuped_narrows_the_interval_of_a_predictable_metric():
    rng = np.random.default_rng(2)
    b, a = users(rng, 400), users(rng, 400)
    past = totals(b, WATCH, "pre_"), totals(a, WATCH, "pre_")
    plain = two_samples(totals(b, WATCH), totals(a, WATCH))
    adjusted = two_samples(totals(b, WATCH), totals(a, WATCH), past)
    assert adjusted.se < 0.8 * plain.se


def test_swapping_unpaired_arms_flips_the_sign_exactly():
    rng = np.random.default_rng(3)
    b, a = users(rng, 60), users(rng, 70)
    past = totals(b, RATE, "pre_"), totals(a, RATE, "pre_")
    forward = two_samples(totals(b, RATE), totals(a, RATE))
    backward = two_samples(totals(a, RATE), totals(b, RATE))
    assert forward.log_lift == -backward.log_lift
    adjusted = two_samples(totals(b, RATE), totals(a, RATE), past)
    assert adjusted.log_lift != forward.log_lift


def test_welch_by_hand():
    # 1, 3 against 2, 4, 6, 8: means 2 and 5, variances 2 and 20/3; SE^2 = 1 + 5/3.
    one = Totals(numerator_U=np.array([1.0, 3]), denominator_U=np.ones(2))
    four = Totals(numerator_U=np.array([2.0, 4, 6, 8]), denominator_U=np.ones(4))
    difference = two_samples(one, four, absolute=True)
    assert difference.log_lift == -3
    assert difference.se == pytest.approx((8 / 3) ** 0.5)
    assert difference.df == pytest.approx((8 / 3) ** 2 / (1 + (5 / 3) ** 2 / 3))


def test_nothing_below_the_line_has_no_comparison():
    empty = Totals(numerator_U=np.zeros(3), denominator_U=np.zeros(3))
    some = Totals(numerator_U=np.ones(3), denominator_U=np.ones(3))
    assert two_samples(empty, some) is None
    assert paired_effect(empty, some, absolute=True) is None
    nothing = Totals(numerator_U=np.zeros(3), denominator_U=np.ones(3))
    assert two_samples(nothing, some) is None
    assert two_samples(nothing, some, absolute=True).log_lift == -1


def test_a_null_raises_before_tea_tasting_can_shrink_the_standard_error():
    frame = frame_of(users(np.random.default_rng(4), 20), users(np.random.default_rng(5), 20))
    broken = frame.with_columns(
        pl.when(pl.col("clicks") > 3).then(None).otherwise("clicks").alias("clicks")
    )
    with pytest.raises(ValueError, match="null"):
        ask_tea_tasting(broken, [RATE], 0.05)


def test_an_all_zero_metric_is_left_out_and_gives_no_nan():
    b, a = users(np.random.default_rng(4), 20), users(np.random.default_rng(5), 20)
    a["clicks"] = np.zeros(20)
    rows = ask_tea_tasting(frame_of(b, a), [WATCH, RATE], 0.05)["rows"]
    assert {row["metric"] for row in rows} == {"watch_time"}


def test_paired_difference_by_hand():
    # Ratios 6/2 = 3 and 3/3 = 1; a user moves the difference by (N - 3 D)/1 - (N - D)/1.5.
    b = Totals(numerator_U=np.array([2.0, 4]), denominator_U=np.array([1.0, 1]))
    a = Totals(numerator_U=np.array([2.0, 1]), denominator_U=np.array([1.0, 2]))
    estimate = paired_effect(b, a, absolute=True)
    moved = [-1 - 1 / 1.5, 1 + 1 / 1.5]
    assert estimate.log_lift == 2
    assert estimate.se == pytest.approx(np.std(moved, ddof=1) / 2**0.5)


def test_the_coin_is_fair_and_each_users_own():
    users_U = np.arange(20_000, dtype=np.int32)
    coin = in_treatment(users_U, 0)
    assert abs(coin.mean() - 0.5) < 0.015
    assert (in_treatment(users_U[::-1].copy(), 0)[::-1] == coin).all()
    assert 0.45 < (in_treatment(users_U, 1) == coin).mean() < 0.55


def test_the_platform_pays_for_the_differences_between_users(tmp_path):
    logs = ab_logs.make_run(tmp_path, pre=True, lifts={"ifa": 0.02})
    view = analyze(logs)["platform"]["ifa"]
    assert sum(view["users"]) == 3 * ab_logs.NUM_USERS
    assert view["srm_p"] > 0.001
    rows = {(row["metric"], row["cuped"]): row for row in view["rows"]}
    assert ("watch_time", True) in rows
    assert ("click_rate", True) in rows
    for row in rows.values():
        assert row["control"] > 0
        assert math.isfinite(row["price"])
