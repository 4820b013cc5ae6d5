"""What a platform can compute of requests and their candidates: numbers that simple agents can eat.

Knows observations and the observed catalogue, nothing hidden. Everything is computed row by row in
an order that does not depend on the batch.

Letters: B requests, C candidates, T history length, F features, D content width, G groups (authors
or categories).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ifa_ray.schema import ACTIONS
from simulator.catalog import ObservedCatalog
from simulator.config import DAY_MS
from simulator.environments.spaces import Observation
from simulator.profiles import NUM_RECENT, SMOOTHING
from simulator.transition import GAP_MS

__all__ = [
    "CANDIDATE_FEATURES",
    "STATE_BOUND",
    "STATE_FEATURES",
    "candidate_features",
    "query_scores",
    "raw_candidate_features",
    "state_features",
]

Array = npt.NDArray[np.float64]

CANDIDATE_FEATURES = (
    "long_match", "recent_match", "author_match", "category_match", "popularity", "freshness",
    "duration", "repetition",
)  # fmt: skip
"""Of a candidate: cosine of its content with the mean of all long views, and with the closest of
the latest; log(1 + long views of its author); log lift of long views in its category; log
popularity; exp(-age / 3 days); log duration; log(1 + impressions of its category in this session).
"""

STATE_FEATURES = (
    "hour_sin", "hour_cos", "day", "session", "request", "log_history",
    "click_rate", "long_rate", "like_rate", "click_rate_50", "long_rate_50",
    "session_impressions", "session_click_rate", "session_long_rate",
    *(f"mean_{name}" for name in CANDIDATE_FEATURES),
    *(f"max_{name}" for name in CANDIDATE_FEATURES),
)  # fmt: skip
"""Of a request: its time and number; rates over the history, its latest 50 impressions and this
session; means and maxima of the candidates' features."""

STATE_BOUND = 20.0
"""State features are clipped to plus and minus this; none comes near it in practice."""

FRESH_DAYS = 3.0
LATEST = 50


def candidate_features(catalog: ObservedCatalog, observation: Observation) -> Array:
    """`CANDIDATE_FEATURES`, each standardised over a request's candidates, float64 [B, C, F]."""
    raw_BCF = raw_candidate_features(catalog, observation)
    centered_BCF = raw_BCF - raw_BCF.mean(axis=1, keepdims=True)
    sd_B1F = np.sqrt((centered_BCF**2).mean(axis=1, keepdims=True))
    return centered_BCF / np.maximum(sd_B1F, 1e-6)


def raw_candidate_features(catalog: ObservedCatalog, observation: Observation) -> Array:
    """`CANDIDATE_FEATURES` as they are defined, float64 [B, C, F]; O(B (T D + C D + G))."""
    items = catalog.items
    ids_BC, time_B1 = observation["candidate_ids"], observation["time_ms"]
    seen_BT, long_BT = _masks(observation)
    past_BT = np.maximum(observation["history_ids"], 0)
    session_BT = _session_mask(observation)

    latest_BT = long_BT & (np.cumsum(long_BT[:, ::-1], axis=1)[:, ::-1] <= NUM_RECENT)
    num_authors = len(catalog.author_start_A) - 1
    author_BG = _counts(items.author_id_N[past_BT], long_BT, num_authors)
    num_categories = int(items.category_N.max()) + 1
    category_BT, category_BC = items.category_N[past_BT], items.category_N[ids_BC]
    shown_BG = _counts(category_BT, seen_BT, num_categories)
    liked_BG = _counts(category_BT, long_BT, num_categories)
    rate_B1 = liked_BG.sum(axis=1, keepdims=True) / np.maximum(
        shown_BG.sum(axis=1, keepdims=True), 1
    )
    smoothed_BG = (liked_BG + SMOOTHING * rate_B1) / (shown_BG + SMOOTHING)
    lift_BG = np.log(np.maximum(smoothed_BG, 1e-3) / np.maximum(rate_B1, 1e-3))
    repeated_BG = np.log1p(_counts(category_BT, session_BT, num_categories))
    age_days_BC = (time_B1 - items.upload_ms_N[ids_BC]) / DAY_MS
    features = {
        "long_match": _mean_match(items.content_ND, past_BT, long_BT, ids_BC),
        "recent_match": _best_match(items.content_ND, past_BT, latest_BT, ids_BC),
        "author_match": np.log1p(
            np.take_along_axis(author_BG, items.author_id_N[ids_BC].astype(np.int64), axis=1)
        ),
        "category_match": np.take_along_axis(lift_BG, category_BC.astype(np.int64), axis=1),
        "popularity": np.log(len(items) * catalog.popularity_N[ids_BC]),
        "freshness": np.exp(-np.maximum(age_days_BC, 0) / FRESH_DAYS),
        "duration": np.log(np.maximum(items.duration_ms_N[ids_BC], 1) / 1000),
        "repetition": np.take_along_axis(repeated_BG, category_BC.astype(np.int64), axis=1),
    }
    return np.stack([features[name] for name in CANDIDATE_FEATURES], axis=2)


def state_features(catalog: ObservedCatalog, observation: Observation) -> npt.NDArray[np.float32]:
    """`STATE_FEATURES`, float32 [B, F] within `STATE_BOUND`."""
    seen_BT, long_BT = _masks(observation)
    click_BT, like_BT = (_happened(observation, name) for name in ("is_click", "is_like"))
    latest_BT = seen_BT.copy()
    latest_BT[:, :-LATEST] = False  # real behaviours are the last columns
    session_BT = _session_mask(observation)
    hour_B = observation["time_ms"][:, 0] / DAY_MS % 1.0
    raw_BCF = raw_candidate_features(catalog, observation)
    columns = [
        np.sin(2 * np.pi * hour_B), np.cos(2 * np.pi * hour_B),
        observation["day"][:, 0] / 7, observation["session"][:, 0], observation["request"][:, 0],
        np.log1p(seen_BT.sum(axis=1)),
        _rate(click_BT, seen_BT), _rate(long_BT, seen_BT), _rate(like_BT, seen_BT),
        _rate(click_BT, latest_BT), _rate(long_BT, latest_BT),
        np.log1p(session_BT.sum(axis=1)),
        _rate(click_BT, session_BT), _rate(long_BT, session_BT),
        *raw_BCF.mean(axis=1).T, *raw_BCF.max(axis=1).T,
    ]  # fmt: skip
    return np.clip(np.stack(columns, axis=1), -STATE_BOUND, STATE_BOUND).astype(np.float32)


def query_scores(catalog: ObservedCatalog, observation: Observation, query_BD: Array) -> Array:
    """Inner product of each candidate's content with the request's query vector, [B, C]."""
    return _dot(catalog.items.content_ND[observation["candidate_ids"]], query_BD)


def _masks(observation: Observation) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which behaviours are real, and which were long views, [B, T] each."""
    return observation["history_mask"] != 0, _happened(observation, "long_view")


def _happened(observation: Observation, action: str) -> npt.NDArray[np.bool_]:
    bit = np.uint8(1 << ACTIONS.index(action))
    return (observation["history_actions"] & bit != 0) & (observation["history_mask"] != 0)


def _session_mask(observation: Observation) -> npt.NDArray[np.bool_]:
    """Which behaviours are of the session that is going on: no gap of 30 minutes since, [B, T]."""
    seen_BT = observation["history_mask"] != 0
    next_BT = np.concatenate([observation["history_times_ms"][:, 1:], observation["time_ms"]], 1)
    close_BT = next_BT - observation["history_times_ms"] < GAP_MS
    unbroken_BT = np.logical_and.accumulate(close_BT[:, ::-1], axis=1)[:, ::-1]
    return unbroken_BT & seen_BT


def _counts(group_BT: npt.NDArray, mask_BT: npt.NDArray[np.bool_], num_groups: int) -> Array:
    """How many masked entries of each row are in each group, float64 [B, G]."""
    row_P, place_P = np.nonzero(mask_BT)
    bins = row_P * num_groups + group_BT[row_P, place_P]
    counts = np.bincount(bins, minlength=len(mask_BT) * num_groups)
    return counts.reshape(len(mask_BT), num_groups).astype(np.float64)


def _mean_match(
    content_ND: npt.NDArray[np.float32],
    past_BT: npt.NDArray,
    mask_BT: npt.NDArray[np.bool_],
    ids_BC: npt.NDArray[np.int32],
) -> Array:
    """Cosine of candidates with the mean of masked behaviours; 0 where there are none, [B, C]."""
    row_P, place_P = np.nonzero(mask_BT)
    content_PD = content_ND[past_BT[row_P, place_P]]
    sums = [np.bincount(row_P, content_PD[:, d], len(mask_BT)) for d in range(content_ND.shape[1])]
    total_BD = np.stack(sums, axis=1)
    norm_B1 = np.sqrt((total_BD**2).sum(axis=1, keepdims=True))
    return _dot(content_ND[ids_BC], total_BD / np.maximum(norm_B1, 1e-9))


def _best_match(
    content_ND: npt.NDArray[np.float32],
    past_BT: npt.NDArray,
    mask_BT: npt.NDArray[np.bool_],
    ids_BC: npt.NDArray[np.int32],
) -> Array:
    """Cosine of candidates with the closest of at most `NUM_RECENT` masked behaviours, [B, C]."""
    content_BCD = content_ND[ids_BC]
    best_BC = np.zeros(ids_BC.shape)
    nth_BT = np.where(mask_BT, np.cumsum(mask_BT, axis=1), 0)
    for n in range(1, NUM_RECENT + 1):
        chosen_BT = nth_BT == n
        item_B = past_BT[np.arange(len(past_BT)), chosen_BT.argmax(axis=1)]
        there_B1 = chosen_BT.any(axis=1)[:, None]
        match_BC = _dot(content_BCD, content_ND[item_B].astype(np.float64))
        best_BC = np.maximum(best_BC, np.where(there_B1, match_BC, 0.0))
    return best_BC


def _dot(content_BCD: npt.NDArray[np.float32], vector_BD: Array) -> Array:
    """Inner products, summed dimension by dimension so that no row's bits depend on the batch."""
    product_BC = np.zeros(content_BCD.shape[:2])
    for d in range(content_BCD.shape[2]):
        product_BC += content_BCD[:, :, d] * vector_BD[:, d, None]
    return product_BC


def _rate(happened_BT: npt.NDArray[np.bool_], among_BT: npt.NDArray[np.bool_]) -> Array:
    return (happened_BT & among_BT).sum(axis=1) / np.maximum(among_BT.sum(axis=1), 1)
