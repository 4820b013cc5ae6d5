"""Checks 2, 3, 4, 5, 6 and 10: what can be asked of worlds that are drawn, not lived."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import polars as pl
from outcome import Outcome, within
from scipy import stats

from ifa_ray.abtest.estimates import Totals, over_replicates, paired_effect, two_samples
from ifa_ray.abtest.metrics import METRICS
from ifa_ray.abtest.planning import power
from ifa_ray.abtest.platform import ask_tea_tasting
from ifa_ray.abtest.series import band_of_moments, lift_moments
from ifa_ray.abtest.totals import day_totals, sum_up

sys.path.insert(0, str(Path(__file__).parents[1] / "simulator"))

AA_METRICS = ("watch_time", "impressions", "sessions", "clicks", "long_views", "completions",
              "likes", "click_rate", "long_view_rate", "completion_rate", "watch_per_impression",
              "impressions_per_session")  # fmt: skip


def mean_of(values):
    return Totals(numerator_U=values, denominator_U=np.ones(len(values)))


def simulated_users(users):
    """Totals of users of a small simulated world, two days under one plain ranker."""
    import tiny_worlds

    from simulator.world.day import run_warmup
    from simulator.world.world import ShardState

    world = tiny_worlds.tiny_world(11)
    shard = ShardState.new(world, np.arange(users, dtype=np.int32))
    asyncio.run(run_warmup(world, shard))
    rank = tiny_worlds.answer_with(tiny_worlds.shuffled_candidates)
    frames = []
    for day in range(3):
        log = tiny_worlds.live_day(world, shard, day, rank)
        frames.append(pl.DataFrame(log.impressions).with_columns(pl.lit(day).alias("day")))
    return sum_up(day_totals(pl.concat(frames).lazy()), np.arange(users))


def split_p_values(numerator_U, denominator_U, split_SU):
    """p of each split at once: `two_samples` over rows of masks. O(S U)."""
    sides = []
    for mask_SU in (split_SU, 1 - split_SU):
        n_S = mask_SU.sum(axis=1)
        n, d = mask_SU @ numerator_U, mask_SU @ denominator_U
        nn, dd, nd = (mask_SU @ product for product in (
            numerator_U**2, denominator_U**2, numerator_U * denominator_U))  # fmt: skip
        ratio_S = n / d
        # Contributions (N - ratio D)/mean(D) have mean 0, so their squares are their variance.
        squares_S = (nn - 2 * ratio_S * nd + ratio_S**2 * dd) / (d / n_S) ** 2
        sides.append((ratio_S, squares_S / (n_S - 1), n_S))
    (rb, vb, nb), (ra, va, na) = sides
    parts = vb / rb**2 / nb, va / ra**2 / na
    total = parts[0] + parts[1]
    df = total**2 / (parts[0] ** 2 / (nb - 1) + parts[1] ** 2 / (na - 1))
    t = (np.log(rb) - np.log(ra)) / np.sqrt(total)
    return 2 * stats.t.sf(np.abs(t), df)


def check_2(splits=10_000, users=1_500):
    columns = simulated_users(users)
    metrics = [metric for metric in METRICS if metric.name in AA_METRICS]
    rng = np.random.default_rng(21)
    rejected = dict.fromkeys(AA_METRICS, 0)
    for part in range(10):
        # Half of the users on each side, whoever they are.
        order = rng.random((splits // 10, users)).argsort(axis=1)
        split_SU = (order < users // 2).astype(np.float64)
        for metric in metrics:
            above = columns[metric.above]
            below = columns[metric.below] if metric.below else np.ones(users)
            p_S = split_p_values(above, below, split_SU)
            rejected[metric.name] += int((p_S < 0.05).sum())
            if part == 0:  # the vectorised engine is the engine
                mask = split_SU[0].astype(bool)
                halves = [Totals(numerator_U=above[m], denominator_U=below[m])
                          for m in (mask, ~mask)]  # fmt: skip
                assert abs(two_samples(*halves).p_value - p_S[0]) < 1e-9
    rates = {name: 100 * count / splits for name, count in rejected.items()}
    mean = float(np.mean(list(rates.values())))
    low, high = min(rates, key=rates.get), max(rates, key=rates.get)
    return Outcome(
        2, f"{splits:,} A/A re-splits of {users:,} simulated users: each metric's false positives "
        "in [4.24, 5.80]%, their mean in [4.7, 5.3]%",
        f"mean {mean:.2f}% over {len(rates)} metrics; least {low} {rates[low]:.2f}%, most {high} "
        f"{rates[high]:.2f}%",
        within(mean, 4.7, 5.3) and all(within(rate, 4.24, 5.80) for rate in rates.values()),
    )  # fmt: skip


def check_3(trials=40):
    watch = next(metric for metric in METRICS if metric.name == "watch_time")
    rate = next(metric for metric in METRICS if metric.name == "click_rate")
    worst = 0.0
    asked = 0
    rng = np.random.default_rng(31)
    for _ in range(trials):
        arms = []
        for size in rng.integers(20, 500, 2):
            taste = rng.gamma(1.5, 1.0, size) * (rng.random(size) > 0.1)
            shown, before = (rng.poisson(k * taste) + 0.0 for k in (6, 12))
            arms.append({
                "watch_time": taste * rng.gamma(3, 30.0, size),
                "pre_watch_time": taste * rng.gamma(3, 50.0, size),
                "impressions": shown, "pre_impressions": before,
                "clicks": rng.binomial(shown.astype(int), 0.4) + 0.0,
                "pre_clicks": rng.binomial(before.astype(int), 0.4) + 0.0,
            })  # fmt: skip
        frame = pl.concat(
            [pl.DataFrame({"variant": np.full(len(arm["clicks"]), v), **arm})
             for v, arm in zip((1, 0), arms, strict=True)]
        )  # fmt: skip
        for row in ask_tea_tasting(frame, [watch, rate], 0.05)["rows"]:
            metric = watch if row["metric"] == "watch_time" else rate
            now, past = ([_totals(arm, metric, prefix) for arm in arms] for prefix in ("", "pre_"))
            ours = two_samples(*now, tuple(past) if row["cuped"] else None, absolute=True)
            worst = max(worst, abs(ours.p_value - row["p"]))
            asked += 1
    return Outcome(
        3, "our unpaired engine against tea-tasting, means and ratios, with and without CUPED: "
        "|dp| < 1e-9",
        f"largest |dp| {worst:.1e} in {asked} analyses", worst < 1e-9,
    )  # fmt: skip


def _totals(columns, metric, prefix):
    above = columns[prefix + metric.above]
    below = columns[prefix + metric.below] if metric.below else np.ones_like(above)
    return Totals(numerator_U=above, denominator_U=below)


def check_4(worlds=3_000, users=500):
    shares = {}
    for effect in (0.0, 0.02, 0.2):
        rng = np.random.default_rng([41, round(100 * effect)])  # else all three are one draw
        covered = 0
        for _ in range(worlds):
            taste = rng.gamma(1.5, 1.0, users) * (rng.random(users) > 0.1)
            b, a = taste * rng.gamma(8.0, 1 / 8.0, (2, users)) * [[1 + effect], [1.0]]
            low, high = paired_effect(mean_of(b), mean_of(a)).interval(0.05)
            covered += low <= effect <= high
        shares[effect] = 100 * covered / worlds
    listed = ", ".join(f"{share:.1f}% at {effect:.0%}" for effect, share in shares.items())
    return Outcome(
        4, f"paired interval covers 95 +- 1.2% over {worlds:,} worlds of {users} users, "
        "effects 0, 2 and 20%",
        listed, all(within(share, 93.8, 96.2) for share in shares.values()),
    )  # fmt: skip


def check_5(groups=200, replicates=5, users=150, items=60, shown=6):
    """A toy ranker, a regression on its own training sample, against its own retrained copy."""
    rng = np.random.default_rng(51)
    headline = by_users = 0
    for _ in range(groups):
        lifts = []
        for _ in range(replicates):
            quality_N = rng.normal(0, 1, items)
            features_ND = quality_N[:, None] * rng.normal(1, 0.3, 5) + rng.normal(0, 1, (items, 5))
            activity_U = rng.gamma(2.0, 1.0, users)
            mood_UN = rng.gamma(
                4.0, 0.25, (users, items)
            )  # common: the same meeting, the same mood
            watch = []
            for _ in range(2):
                sample = rng.integers(0, items, 80)
                plays = quality_N[sample] + rng.normal(0, 2.0, 80)
                weights = np.linalg.lstsq(features_ND[sample], plays, rcond=None)[0]
                best = np.argsort(-features_ND @ weights)[:shown]
                watch.append(activity_U * (mood_UN[:, best] * np.exp(0.3 * quality_N[best])).sum(1))
            estimate = paired_effect(mean_of(watch[0]), mean_of(watch[1]))
            lifts.append(estimate.log_lift)
            by_users += estimate.p_value < 0.05
        headline += over_replicates(lifts).p_value < 0.05
    rate, user_rate = 100 * headline / groups, 100 * by_users / (groups * replicates)
    return Outcome(
        5, f"replicate test on retrained twins: false positives in [1, 9.5]% over {groups} groups "
        f"of {replicates}",
        f"{rate:.1f}% (a user-level test of one pair: {user_rate:.0f}%)", within(rate, 1, 9.5),
    )  # fmt: skip


def check_6(trials=3_000, replicates=5, users=200):
    rng = np.random.default_rng(61)
    rows = []
    for lift in (0.01, 0.02, 0.03):
        found, spread = 0, []
        for _ in range(trials):
            lifts = []
            for _ in range(replicates):
                taste = rng.gamma(2.0, 1.0, users)
                b, a = taste * rng.gamma(30.0, 1 / 30.0, (2, users))
                b = b * np.exp(lift + rng.normal(0, 0.008))  # the checkpoint's own luck
                lifts.append(float(np.log(b.sum()) - np.log(a.sum())))
            spread.append(np.var(lifts, ddof=1))
            found += over_replicates(lifts).p_value < 0.05
        # Predicted from the spread that such runs have, as planning does.
        predicted = power(lift, (np.mean(spread) / replicates) ** 0.5, replicates - 1, 0.05)
        rows.append((lift, 100 * predicted, 100 * found / trials))
    listed = ", ".join(f"{lift:.0%}: {p:.1f}% -> {f:.1f}%" for lift, p, f in rows)
    return Outcome(
        6, "injected effects are found as often as predicted, within 5 points", listed,
        all(abs(p - f) <= 5 for _, p, f in rows),
    )  # fmt: skip


def check_10(runs=1_000, users=1_000, days=14):
    rng = np.random.default_rng(101)
    joint = point = 0
    for _ in range(runs):
        taste = rng.gamma(1.5, 1.0, (users, 1))
        arms = taste * rng.gamma(2.0, 0.5, (2, users, days)) * rng.gamma(4, 0.25, (2, users, 1))
        # Some come daily, some hardly ever; mostly on the same days under both rankers.
        often = rng.beta(2.0, 1.0, (users, 1))
        came = (rng.random((users, days)) < often) & (rng.random((2, users, days)) < 0.95)
        lifts, covariance = lift_moments(*(arms * came), paired=True)
        band = band_of_moments(lifts, covariance, users - 1, 0.05, rng, draws=5_000)
        for simultaneous in (True, False):
            low, high = band.bounds(simultaneous=simultaneous)
            missed = bool(((low > 0) | (high < 0)).any())
            joint += missed and simultaneous
            point += missed and not simultaneous
    rate = 100 * joint / runs
    # Of fewer users with so heavy a tail, intervals err more often: see docs/abtest.md.
    return Outcome(
        10, f"sup-t bands of {days} days: any-day error in [2.5, 7]% over {runs:,} A/A of "
        f"{users:,} users",
        f"{rate:.1f}% (pointwise: {100 * point / runs:.1f}%)", within(rate, 2.5, 7),
    )  # fmt: skip


CHECKS = {2: check_2, 3: check_3, 4: check_4, 5: check_5, 6: check_6, 10: check_10}
