"""D2Q, WTG, novelty, taste and serendipity, each against plain Python that walks all rows."""

import math
from collections import Counter, defaultdict

import ab_logs
import numpy as np
import polars as pl
import pytest
from test_ab_analyze import rows_of

from ifa_ray.abtest import analyze
from ifa_ray.abtest.measure import WatchNorms, surprise_bits, taste_of
from ifa_ray.abtest.metrics import METRICS, answerable
from ifa_ray.abtest.totals import (
    MISFIT_FLOOR,
    UNIT,
    day_diversity,
    day_totals,
    with_features,
)


def pre_rows(logs, replicate):
    return logs.pre_frames["twin", replicate].collect().to_dicts()


def brute_bins(rows):
    """Lower ends of the duration bins, from sorted lists."""
    durations = sorted(row["duration_ms"] for row in rows)
    count = min(30, max(1, len(rows) // 100))
    cuts = {durations[math.ceil(b / count * (len(durations) - 1))] for b in range(1, count)}
    return sorted(cut for cut in cuts if cut > durations[0])


def bin_of(edges, duration):
    return sum(edge <= duration for edge in edges)


def brute_watch(rows, pre):
    edges = brute_bins(pre)
    plays = defaultdict(list)
    for row in pre:
        plays[bin_of(edges, row["duration_ms"])].append(row["play_time_ms"])
    d2q = wtg = 0.0
    for row in rows:
        same, play = plays[bin_of(edges, row["duration_ms"])], row["play_time_ms"]
        less, equal = sum(p < play for p in same), sum(p == play for p in same)
        d2q += (less + equal / 2) / len(same)
        wtg += (play - np.mean(same)) / np.std(same)
    return d2q, wtg


def brute_taste(pre, items):
    category = dict(zip(items.video_id_N.tolist(), items.category_N.tolist(), strict=True))
    tastes = {}
    for user in {row["user_id"] for row in pre}:
        own = [row for row in pre if row["user_id"] == user]
        liked = [row for row in own if row["long_view"]] or own
        counts = Counter(category[row["video_id"]] for row in liked)
        tastes[user] = {c: n / len(liked) for c, n in counts.items()}
    return tastes, category


def brute_day(rows, taste, category):
    """Misfit and serendipity of one user's day."""
    shares = Counter(category[row["video_id"]] for row in rows)
    misfit = sum(
        p * math.log(p / ((1 - MISFIT_FLOOR) * shares[c] / len(rows) + MISFIT_FLOOR * p))
        for c, p in taste.items()
    )
    happy = sum(row["long_view"] * (1 - taste.get(category[row["video_id"]], 0)) for row in rows)
    return misfit, happy / len(rows)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    # Half of the user-days have fewer than the 12 impressions of the fixed k.
    return ab_logs.make_run(
        tmp_path_factory.mktemp("log"), replicates=1, days=3, burn_in_days=1, fixed_k=12, pre=True
    )


@pytest.fixture(scope="module")
def by_user_day(logs):
    days = defaultdict(list)
    for day, row in rows_of(logs, "ifa", 0, logs.burn_in_days):
        days[row["user_id"], day].append(row)
    for rows in days.values():
        rows.sort(key=lambda row: (row["time_ms"], row["request_id"], row["position"]))
    return days


@pytest.fixture(scope="module")
def world(logs):
    return ab_logs.measured(logs, "ifa", 0)


def test_d2q_and_wtg_are_those_of_a_walk_through_all_rows(logs, by_user_day, world):
    pre = pre_rows(logs, 0)
    assert len(brute_bins(pre)) == 2
    users = sorted(logs.users["twin", 0])
    d2q, wtg = dict.fromkeys(users, 0.0), dict.fromkeys(users, 0.0)
    for (user, _), rows in by_user_day.items():
        of_day = brute_watch(rows, pre)
        d2q[user] += of_day[0]
        wtg[user] += of_day[1]
    np.testing.assert_allclose(world.columns["d2q_time"], list(d2q.values()), atol=1e-4)
    np.testing.assert_allclose(world.columns["wtg"], list(wtg.values()), atol=1e-4)
    assert min(wtg.values()) < 0 < max(wtg.values())


def test_taste_and_novelty_are_those_of_a_walk_through_all_rows(logs, by_user_day, world):
    pre = pre_rows(logs, 0)
    tastes, category = brute_taste(pre, logs.catalogues[0])
    shown = Counter(row["video_id"] for row in pre)
    whole = len(pre) + ab_logs.NUM_ITEMS
    names = ("misfit", "serendipity", "tasted", "novelty")
    expected = {name: dict.fromkeys(sorted(logs.users["twin", 0]), 0.0)
                for name in (*names, *(f"{name}_k" for name in names))}  # fmt: skip
    for (user, _), all_rows in by_user_day.items():
        for suffix, rows in (("", all_rows), ("_k", all_rows[: logs.fixed_k])):
            if suffix and len(rows) < logs.fixed_k:
                continue
            bits = [-math.log2((shown[row["video_id"]] + 1) / whole) for row in rows]
            expected["novelty" + suffix][user] += float(np.mean(bits))
            if user in tastes:
                misfit, happy = brute_day(rows, tastes[user], category)
                expected["misfit" + suffix][user] += misfit
                expected["serendipity" + suffix][user] += happy
                expected["tasted" + suffix][user] += 1
    for name, totals in expected.items():
        assert sum(totals.values()) > 0, name
        np.testing.assert_allclose(
            world.columns[name], list(totals.values()), atol=2e-5, err_msg=name
        )
    assert sum(expected["tasted"].values()) < sum(expected["novelty"].values())


def test_yardsticks_are_frozen_on_control_and_before_the_test(tmp_path):
    # Doubling every play of the treatment can't move what it is measured by.
    logs = ab_logs.make_run(tmp_path, replicates=1, lifts={"ifa": 1.0}, same=True, pre=True)
    result = analyze(logs)
    pre = pre_rows(logs, 0)
    rows = [row for _, row in rows_of(logs, "ifa", 0, logs.burn_in_days)]
    level = result["levels"]["ifa"]["d2q"]["mean"]
    assert level == pytest.approx(brute_watch(rows, pre)[0] / len(rows), abs=1e-5)
    assert level > result["levels"]["twin"]["d2q"]["mean"]


def test_d2q_of_the_yardsticks_own_plays_is_uniform_and_wtg_standard():
    rng = np.random.default_rng(0)
    durations = rng.integers(2_000, 300_000, 5_000)
    plays = (durations * rng.beta(1, 2, 5_000)).astype(np.int64)
    norms = WatchNorms.of(plays, durations)
    assert len(norms.edges_B) == 29
    d2q, wtg = (found / UNIT for found in norms.proxies(plays, durations))
    assert d2q.mean() == pytest.approx(0.5, abs=1e-6)
    assert np.quantile(d2q, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.01)
    assert (wtg.mean(), wtg.std()) == pytest.approx((0, 1), abs=1e-5)
    # Longer videos are watched longer, and D2Q does not see it.
    assert np.corrcoef(plays, durations)[0, 1] > 0.5
    assert abs(np.corrcoef(d2q, durations)[0, 1]) < 0.05


def test_plays_that_are_all_alike_gain_nothing():
    norms = WatchNorms.of(np.full(10, 5_000), np.full(10, 9_000))
    d2q, wtg = norms.proxies(np.array([1, 5_000, 9_000]), np.full(3, 9_000))
    assert wtg.tolist() == [0, 0, 0]
    assert (d2q / UNIT).tolist() == [0, 0.5, 1]


def one_user_day(categories, long_views=None):
    items = ab_logs.make_items()
    place = [np.flatnonzero(items.category_N == c)[0] for c in categories]
    return with_features(
        pl.LazyFrame(
            {
                "user_id": [1] * len(place),
                "day": [0] * len(place),
                "video_id": items.video_id_N[place],
                "long_view": long_views or [0] * len(place),
            }
        ),
        items,
    )


def test_a_day_just_like_the_taste_fits_and_a_day_of_strangers_is_log_of_the_floor():
    taste = pl.LazyFrame({"user_id": [1, 1], "category": [0, 1], "share": [0.75, 0.25]})
    same = day_diversity(one_user_day([0, 0, 0, 1]), taste).collect()
    assert same["misfit"].item() == pytest.approx(0, abs=1e-6)
    strange = day_diversity(one_user_day([2, 3]), taste).collect()
    assert strange["misfit"].item() == pytest.approx(math.log(1 / MISFIT_FLOOR))


def test_serendipity_by_hand():
    taste = pl.LazyFrame({"user_id": [1, 1], "category": [0, 1], "share": [0.75, 0.25]})
    day = day_diversity(one_user_day([0, 1, 2, 2], [1, 1, 1, 0]), taste).collect()
    # Liked: of categories with shares 3/4, 1/4 and none: (1/4 + 3/4 + 1) / 4.
    assert day["serendipity"].item() == pytest.approx(0.5)


def test_gini_simpson_by_hand():
    day = day_diversity(one_user_day([0, 0, 1, 2])).collect()
    assert day["gini_simpson"].item() == pytest.approx(1 - (4 + 1 + 1) / 16)


def test_a_user_without_a_past_has_no_taste_and_is_not_counted():
    taste = pl.LazyFrame({"user_id": [2], "category": [0], "share": [1.0]})
    day = day_diversity(one_user_day([0, 1]), taste).collect()
    assert day.select("misfit", "serendipity", "tasted").row(0) == (0, 0, 0)


def test_who_never_viewed_long_has_the_taste_of_what_was_shown():
    items = ab_logs.make_items()
    pre = pl.LazyFrame(
        {"user_id": [1, 1, 2, 2], "video_id": items.video_id_N[[0, 1, 0, 1]], "time_ms": [0] * 4,
         "long_view": [0, 0, 1, 0], "play_time_ms": [1] * 4}
    )  # fmt: skip
    taste = taste_of(pre, items).collect()
    assert taste.filter(pl.col("user_id") == 1)["share"].to_list() == [0.5, 0.5]
    assert taste.filter(pl.col("user_id") == 2)["share"].to_list() == [1.0]


def test_never_seen_items_are_the_most_novel():
    bits = surprise_bits(np.array([0, 1, 7]))
    assert bits.tolist() == pytest.approx([math.log2(11), math.log2(5.5), math.log2(11 / 8)])


@pytest.mark.parametrize(("gap_s", "sessions"), [(1_800, 1), (1_800.001, 2)])
def test_a_session_ends_after_more_than_half_an_hour(gap_s, sessions):
    log = pl.LazyFrame({"user_id": [1, 1], "day": [0, 0], "time_ms": [int(1_000 * gap_s), 0],
                        "play_time_ms": [1, 1]})  # fmt: skip
    assert day_totals(log).collect()["sessions"].item() == sessions


@pytest.mark.parametrize(
    ("play", "duration", "done"), [(999, 1000, 0), (1000, 1000, 1), (1001, 1000, 1), (5, 0, 0)]
)
def test_a_completion_is_a_play_of_at_least_the_duration(play, duration, done):
    log = pl.LazyFrame({"user_id": [1], "day": [0], "play_time_ms": [play],
                        "duration_ms": [duration]})  # fmt: skip
    assert day_totals(log).collect()["completions"].item() == done


def test_a_log_with_little_answers_little_and_says_what_it_lacks():
    kept, missing = answerable({"user_id", "play_time_ms"})
    assert [metric.name for metric in kept] == ["watch_time", "impressions", "active_days",
                                                "watch_per_impression"]  # fmt: skip
    lacks = {metric.name: needs for metric, needs in missing.items()}
    assert lacks["serendipity_k"] == ("items", "pre", "long_view", "time_ms")
    assert len(kept) + len(missing) == len(METRICS)
