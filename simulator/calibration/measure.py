"""Figures of a log, the real ones, and the rows that compare them.

Knows the log's columns and the published targets; nothing of worlds. Simulated and real logs are
measured alike. A miss is shown, not hidden.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ifa_ray.errors import unknown_name
from ifa_ray.schema import ACTIONS
from simulator.calibration.sample import Pool, pool_weights

DATA = Path(__file__).parent.parent / "data"

SURFACES: Mapping[str, str] = {
    "kuairand": "kuairand_targets.json",
    "kuaishou_paper": "kuaishou_paper_targets.json",
}
"""Surfaces that were measured, and the files of their figures."""

SESSION_GAP_MS = 30 * 60_000
"""KuaiRand's sessions are cut at gaps of more than 30 minutes."""

# KuaiRec's watch ratios: its quartiles, over videos of the middle half of its durations.
RATIO_RANGE_S = (7.434, 12.179)
RATIO_THRESHOLDS = {"q25": 0.3111, "q50": 0.7161, "q75": 1.1618}
# They are met as shares of plays beyond them.
RATIO_SHARES = {"q25": 0.75, "q50": 0.5, "q75": 0.25}

LONG_HISTORY = 10_000

Columns = Mapping[str, np.ndarray]


def measure(
    impressions: Columns, catalogue_duration_ms: np.ndarray, pool: Pool | None = None
) -> dict[str, float]:
    """Figures of a log by the keys of the targets; those with too few rows are left out.

    Args:
        impressions: the log's columns.
        catalogue_duration_ms: durations of all items.
        pool: to which random exposures are weighted; None: as they are.
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
    found = _rates("random", random, weight)
    if len(feed["user_id"]):
        found |= _rates("feed", feed, np.ones(len(feed["user_id"])))
        found |= {**_joint_rates(feed), **_ratios(feed), **_user_rates(feed)}
    return {
        **found,
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
    found = {}
    for (name, threshold), quartile in zip(RATIO_THRESHOLDS.items(), quartiles, strict=True):
        found[f"feed_ratio_{name}"] = float(quartile)
        found[f"feed_ratio_beyond_{name}"] = float((ratio >= threshold).mean())
    return found


def _user_rates(feed: Columns) -> dict[str, float]:
    _, user = np.unique(feed["user_id"], return_inverse=True)
    seen_U = np.bincount(user)
    click_U = np.bincount(user, feed["is_click"]) / seen_U
    found = {
        "user_click_mean": float(click_U.mean()),
        "user_click_sd": float(click_U.std()),
        "history_p50": float(np.median(seen_U)),
        **history_figures(seen_U),
    }
    rank_seen, rank_click = rankdata(seen_U), rankdata(click_U)
    if rank_seen.std() > 0 and rank_click.std() > 0:
        found["activity_click_spearman"] = float(np.corrcoef(rank_seen, rank_click)[0, 1])
    return found


def history_figures(seen_U: np.ndarray) -> dict[str, float]:
    """Figures of the lengths of histories."""
    return {
        "history_log_mean": float(np.log(seen_U).mean()),
        "history_log_sd": float(np.log(seen_U).std()),
        "history_10k_share": float((seen_U >= LONG_HISTORY).mean()),
    }


def concentration(video_ids: np.ndarray, num_users: int) -> dict[str, float]:
    """Measures how impressions gather on few of the items seen at all, as KuaiRand counts.

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
    """Impressions of each session of a log, cut at gaps of more than 30 minutes, int64."""
    if not len(user_ids):
        return np.zeros(0, np.int64)
    order = np.lexsort((time_ms, user_ids))
    user, at = user_ids[order], time_ms[order]
    begins = (np.diff(user, prepend=user[0] - 1) != 0) | (
        np.diff(at, prepend=at[0]) > SESSION_GAP_MS
    )
    return np.diff(np.append(np.flatnonzero(begins), len(user)))


@functools.cache
def _read(surface: str) -> dict[str, Any]:
    if surface not in SURFACES:
        raise unknown_name("surface", surface, SURFACES)
    return json.loads((DATA / SURFACES[surface]).read_text())


def surface_of(scale: str) -> str:
    """The surface whose figures a scale is held against."""
    return scale if scale in SURFACES else "kuairand"


def targets(surface: str = "kuairand") -> dict[str, dict[str, Any]]:
    """The real figures by key, each with name, target, source, tier, tolerance, solved.

    Raises:
        ConfigError: on an unknown surface, with the near miss.
    """
    found = _read(surface)
    shared = {key: _read("kuairand")["targets"][key] for key in found.get("shared", ())}
    return {**found["targets"], **shared}


def random_pool(surface: str = "kuairand") -> Pool | None:
    """The pool of videos that were exposed at random."""
    pool = _read(surface)["random_pool"]
    return None if pool is None else (pool["log_mean"], pool["log_sd"])


def wanted_rates(surface: str = "kuairand") -> dict[str, float]:
    """The targets as the solver of levels wants them."""
    wanted = {key: target["target"] for key, target in targets(surface).items()}
    if "feed_ratio_q25" in wanted:
        wanted |= {f"feed_ratio_beyond_{name}": share for name, share in RATIO_SHARES.items()}
    return wanted


def compare(
    found: Sequence[Mapping[str, float]],
    surface: str = "kuairand",
    notes: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Compares figures of one or more worlds with the targets, one row a target.

    Args:
        found: figures by key; those that a world lacks are left out.
        surface: whose targets.
        notes: is added to the source of a key.
    """
    rows = []
    for key, target in targets(surface).items():
        values = [each[key] for each in found if key in each]
        if not values:
            continue
        achieved, wanted = float(np.mean(values)), target["target"]
        kind, tolerance = next(iter(target["tolerance"].items()))
        distance = achieved - wanted if kind == "absolute" else achieved / wanted - 1
        if kind == "factor":
            hit = achieved > 0 and max(achieved / wanted, wanted / achieved) <= tolerance
        else:
            hit = abs(distance) <= tolerance
        source = target["source"] + (" (solved)" if target["solved"] else "")
        note = (notes or {}).get(key)
        rows.append(
            {
                "key": key,
                "name": target["name"],
                "target": wanted,
                "source": f"{source}; {note}" if note else source,
                "tier": target["tier"],
                "achieved": float(f"{achieved:.4g}"),
                "spread": float(f"{np.std(values):.2g}"),
                "distance": float(f"{distance:.3g}"),
                "tolerance": tolerance,
                "tolerance_kind": kind,
                "verdict": "hit" if hit else "miss",
            }
        )
    return rows


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a text table; `spread` is the standard deviation between worlds."""
    lines = [
        f"{'':40}{'target':>9} {'achieved':>9} {'spread':>8} {'distance':>9} {'allowed':>8}"
        "  verdict  source"
    ]
    for row in rows:
        relative = row["tolerance_kind"] != "absolute"
        distance = f"{row['distance']:+.1%}" if relative else f"{row['distance']:+.4f}"
        sign = {"absolute": "±{:.4g}", "relative": "±{:.0%}", "factor": "x{:.4g}"}
        allowed = sign[row["tolerance_kind"]].format(row["tolerance"])
        lines.append(
            f"{row['name']:40}{row['target']:>9.4g} {row['achieved']:>9.4g} {row['spread']:>8.2g} "
            f"{distance:>9} {allowed:>8}  {row['verdict']:7}  {row['source']}, tier {row['tier']}"
        )
    hits = sum(row["verdict"] == "hit" for row in rows)
    return "\n".join([*lines, f"{hits} of {len(rows)} targets hit."])
