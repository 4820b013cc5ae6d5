"""What a log says, by the keys of the targets.

Knows the log's columns; nothing of worlds. The same measures are taken of simulated and of real
logs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ifa_ray.schema import ACTIONS
from simulator.level_sample import Pool, pool_weights
from simulator.levels import RATIO_RANGE_S, RATIO_THRESHOLDS

__all__ = ["SESSION_GAP_MS", "concentration", "measure", "ranks", "sessions"]

SESSION_GAP_MS = 30 * 60_000
"""KuaiRand's sessions are cut at gaps of 30 minutes."""

LONG_HISTORY = 10_000

Columns = Mapping[str, np.ndarray]


def measure(
    impressions: Columns, catalogue_duration_ms: np.ndarray, pool: Pool | None = None
) -> dict[str, float]:
    """Figures of a log by the keys of the targets; those with too few rows are left out.

    Args:
        impressions: the log's columns.
        catalogue_duration_ms: durations of all items.
        pool: mean and sd of the log durations to which random exposures are weighted; None: as
            they are.
    """
    is_random = impressions["is_rand"] != 0
    feed = {name: column[~is_random] for name, column in impressions.items()}
    random = {name: column[is_random] for name, column in impressions.items()}
    duration_s = catalogue_duration_ms[catalogue_duration_ms > 0] / 1000
    log_s = np.log(duration_s)
    weight = pool_weights(
        random["duration_ms"] / 1000, (float(log_s.mean()), max(float(log_s.std()), 1e-3)), pool
    )
    p50, p95 = np.percentile(duration_s, [50, 95])
    return {
        **_rates("feed", feed, np.ones(len(feed["user_id"]))),
        **_rates("random", random, weight),
        **_joint_rates(feed),
        **_ratios(feed),
        **_user_rates(feed),
        **concentration(impressions["video_id"], len(np.unique(impressions["user_id"]))),
        "duration_p50_s": float(p50),
        "duration_p95_s": float(p95),
    }


def _rates(surface: str, columns: Columns, weight: np.ndarray) -> dict[str, float]:
    if not len(columns["user_id"]):
        return {}
    found = {
        f"{surface}_{name}": float(np.average(columns[name], weights=weight)) for name in ACTIONS
    }
    play_s = float(np.average(columns["play_time_ms"], weights=weight) / 1000)
    return {**found, f"{surface}_mean_play_s": play_s}


def _joint_rates(feed: Columns) -> dict[str, float]:
    if not len(feed["user_id"]):
        return {}
    click, long = feed["is_click"] != 0, feed["long_view"] != 0
    play_ms = feed["play_time_ms"]
    found = {
        "feed_zero_play": float((play_ms == 0).mean()),
        "feed_below_3s": float((play_ms < 3000).mean()),
        "feed_mean_duration_s": float(feed["duration_ms"].mean() / 1000),
    }
    if click.any() and not click.all():
        found["feed_like_given_click"] = float(feed["is_like"][click].mean())
        found["feed_like_given_no_click"] = float(feed["is_like"][~click].mean())
    if long.any():
        found["feed_click_given_long_view"] = float((click & long).mean() / long.mean())
    if "request_id" in feed:
        found["feed_impressions_per_request"] = len(click) / len(np.unique(feed["request_id"]))
    return found


def _ratios(feed: Columns) -> dict[str, float]:
    """Quartiles of play over duration of KuaiRec's population, and shares beyond its quartiles."""
    duration_s, play_s = feed["duration_ms"] / 1000, feed["play_time_ms"] / 1000
    low, high = RATIO_RANGE_S
    inside = (duration_s >= low) & (duration_s <= high) & (play_s > 0)
    if not inside.any():
        return {}
    ratio = play_s[inside] / duration_s[inside]
    ratio = ratio[ratio <= 5]
    quartiles = np.percentile(ratio, [25, 50, 75])
    found = {
        f"feed_ratio_{name}": float(value)
        for name, value in zip(RATIO_THRESHOLDS, quartiles, strict=True)
    }
    for name, threshold in RATIO_THRESHOLDS.items():
        found[f"feed_ratio_beyond_{name}"] = float((ratio >= threshold).mean())
    return found


def _user_rates(feed: Columns) -> dict[str, float]:
    if not len(feed["user_id"]):
        return {}
    _, user = np.unique(feed["user_id"], return_inverse=True)
    seen_U = np.bincount(user)
    click_U = np.bincount(user, feed["is_click"]) / seen_U
    found = {
        "user_click_mean": float(click_U.mean()),
        "user_click_sd": float(click_U.std()),
        "history_p50": float(np.median(seen_U)),
        "history_log_mean": float(np.log(seen_U).mean()),
        "history_log_sd": float(np.log(seen_U).std()),
        "history_10k_share": float((seen_U >= LONG_HISTORY).mean()),
    }
    rank_seen, rank_click = ranks(seen_U), ranks(click_U)
    if rank_seen.std() > 0 and rank_click.std() > 0:
        found["activity_click_spearman"] = float(np.corrcoef(rank_seen, rank_click)[0, 1])
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks: histories cut at the longest are tied."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def concentration(video_ids: np.ndarray, num_users: int) -> dict[str, float]:
    """How impressions gather on few of the items that were seen at all, as KuaiRand counts.

    No user sees an item twice, so few users bound the share of the top 1%.
    """
    if not len(video_ids):
        return {}
    counts = np.sort(np.unique(video_ids, return_counts=True)[1])
    n, top = len(counts), max(1, len(counts) // 100)
    gini = 2 * (np.arange(1, n + 1) @ counts) / (n * counts.sum()) - (n + 1) / n
    return {
        "top_1pct_share": float(counts[-top:].sum() / counts.sum()),
        "top_1pct_bound": float(min(1.0, top * num_users / counts.sum())),
        "gini": float(gini),
    }


def sessions(user_ids: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
    """Impressions of each session of a log, sessions being cut at gaps of 30 minutes, int64."""
    if not len(user_ids):
        return np.zeros(0, np.int64)
    order = np.lexsort((time_ms, user_ids))
    user, at = user_ids[order], time_ms[order]
    begins = np.flatnonzero(
        np.concatenate([[True], (np.diff(user) != 0) | (np.diff(at) > SESSION_GAP_MS)])
    )
    return np.diff(np.append(begins, len(user)))
