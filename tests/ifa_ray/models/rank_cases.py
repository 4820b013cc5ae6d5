"""A small catalogue and requests of any shape, for tests of features, models and rankers."""

import dataclasses

import numpy as np

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, History, RankRequest

NUM_ITEMS = 300
NOW_MS = 1_700_000_000_000


def make_items(content_width=6):
    rng = np.random.default_rng(5)
    return ItemTable(
        video_id_N=np.arange(NUM_ITEMS, dtype=np.int32) * 7 + 3,
        author_id_N=(rng.integers(0, 40, NUM_ITEMS) * 1000).astype(np.int32),
        category_N=rng.integers(0, 12, NUM_ITEMS).astype(np.int32),
        duration_ms_N=rng.integers(0, 200_000, NUM_ITEMS).astype(np.int32),
        upload_ms_N=np.zeros(NUM_ITEMS, np.int64),
        content_ND=rng.normal(size=(NUM_ITEMS, content_width)).astype(np.float32),
    )


ITEMS = make_items()


def make_config(name, **changes):
    small = ModelConfig(
        name=name, width=16, num_heads=4, top_k=6, max_history=64, tower_widths=(12, 8),
        id_buckets=400, author_buckets=64, user_buckets=32,
    )  # fmt: skip
    return dataclasses.replace(small, **changes)


def make_history(length, seed=0, times_ms=None):
    """Impressions of no item twice while the catalogue lasts, so that no two scores are equal."""
    rng = np.random.default_rng([seed, length, 1])
    places = np.concatenate([rng.permutation(NUM_ITEMS) for _ in range(length // NUM_ITEMS + 1)])
    if times_ms is None:
        times_ms = np.sort(NOW_MS - rng.integers(0, 10**10, length))
    return History(
        ids_T=ITEMS.video_id_N[places[:length]],
        actions_T=rng.integers(0, 1 << len(ACTIONS), length).astype(np.uint8),
        times_ms_T=np.asarray(times_ms, np.int64),
    )


def make_request(candidates=20, length=30, seed=0, history=None, **changes):
    rng = np.random.default_rng([seed, candidates, 2])
    request = RankRequest(
        request_id=seed,
        user_id=11 + seed,
        time_ms=NOW_MS,
        candidates_C=rng.choice(ITEMS.video_id_N, candidates, replace=False),
        channels_C=rng.integers(0, 5, candidates).astype(np.int8),
        history=make_history(length, seed) if history is None else history,
        k=min(5, candidates),
    )
    return dataclasses.replace(request, **changes)
