"""A small catalogue, requests in a session, and pools that the tests of re-ranking share."""

import numpy as np

from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, History, RankRequest

N = 60
NOW_MS = 10**9
CLICK, VIEW = 1 << ACTIONS.index("is_click"), 1 << ACTIONS.index("long_view")

_rng = np.random.default_rng(0)
ITEMS = ItemTable(
    video_id_N=np.arange(N, dtype=np.int32) * 2,
    author_id_N=(np.arange(N) % 7).astype(np.int32),
    category_N=(np.arange(N) % 4).astype(np.int32),
    duration_ms_N=np.full(N, 9_000, np.int32),
    upload_ms_N=np.zeros(N, np.int64),
    content_ND=np.concatenate([np.zeros((1, 5)), _rng.normal(size=(N - 1, 5))]).astype(np.float32),
)


def make_history(places, actions, times_ms):
    return History(
        ids_T=np.array(places, np.int32) * 2,
        actions_T=np.array(actions, np.uint8),
        times_ms_T=np.array(times_ms, np.int64),
    )


def in_session(seed=0, length=12):
    """A history whose last impressions, a minute apart, end just before now."""
    rng = np.random.default_rng(seed)
    return make_history(
        rng.integers(0, N, length),
        rng.choice([0, CLICK, CLICK | VIEW], length),
        NOW_MS - 60_000 * np.arange(length, 0, -1),
    )


def make_request(seed=0, candidates=40, k=8, history=None):
    rng = np.random.default_rng(seed)
    return RankRequest(
        request_id=seed,
        user_id=seed,
        time_ms=NOW_MS,
        candidates_C=(rng.permutation(N)[:candidates] * 2).astype(np.int32),
        history=in_session(seed) if history is None else history,
        k=k,
    )
