"""Catalogues and requests to time rankers with; nothing in them can be learned.

Knows sizes and a seed. What matters to a ranker's speed is like a real log: Zipf popularity, so
that histories repeat items and authors, and times that lie months apart.

Letters: m candidates, n behaviours.
"""

from __future__ import annotations

import numpy as np

from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, History, RankRequest

_DAY_MS = 86_400_000
_NOW_MS = 400 * _DAY_MS


def catalogue(num_items: int, seed: int, content_width: int = 32) -> ItemTable:
    """A catalogue with six items per author on average."""
    rng = np.random.default_rng([seed, 0])
    num_authors = max(1, num_items // 6)
    return ItemTable(
        video_id_N=np.arange(num_items, dtype=np.int32),
        author_id_N=np.minimum(rng.zipf(1.5, num_items) - 1, num_authors - 1).astype(np.int32),
        category_N=rng.integers(0, 40, num_items, dtype=np.int32),
        duration_ms_N=np.exp(rng.normal(10, 1, num_items)).astype(np.int32) + 1,
        upload_ms_N=np.zeros(num_items, np.int64),
        content_ND=rng.normal(size=(num_items, content_width)).astype(np.float32),
    )


def request(items: ItemTable, m: int, n: int, *, seed: int, number: int) -> RankRequest:
    """The `number`-th request: m distinct candidates, n behaviours, a slate of min(m, 100)."""
    rng = np.random.default_rng([seed, 1, number])
    popular = np.minimum(rng.zipf(1.2, n) - 1, len(items) - 1)
    bits = rng.random((n, len(ACTIONS))) < (0.6, 0.4, 0.08, 0.02, 0.02, 0.01, 0.01)
    return RankRequest(
        request_id=number,
        user_id=number,
        time_ms=_NOW_MS,
        candidates_C=items.video_id_N[rng.permutation(len(items))[:m]],
        channels_C=rng.integers(0, 5, m, dtype=np.int8),
        history=History(
            ids_T=items.video_id_N[popular],
            actions_T=np.packbits(bits, axis=1, bitorder="little")[:, 0],
            times_ms_T=np.sort(_NOW_MS - rng.integers(1, 365 * _DAY_MS, n)),
        ),
        k=min(m, 100),
    )
