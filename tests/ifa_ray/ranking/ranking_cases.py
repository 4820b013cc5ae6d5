"""A small catalogue, models and requests that the tests of rankers share."""

import dataclasses

import numpy as np

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models import build_model
from ifa_ray.schema import History, RankRequest

N = 400
ITEMS = ItemTable(
    video_id_N=np.arange(N, dtype=np.int32),
    author_id_N=(np.arange(N) % 17).astype(np.int32),
    category_N=(np.arange(N) % 5).astype(np.int32),
    duration_ms_N=np.full(N, 9000, np.int32),
    upload_ms_N=np.zeros(N, np.int64),
    content_ND=np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32),
)


def make_request(candidates=40, k=10, seed=0):
    rng = np.random.default_rng(seed)
    return RankRequest(
        request_id=seed,
        user_id=seed,
        time_ms=10**9,
        candidates_C=rng.permutation(N)[:candidates].astype(np.int32),
        history=History(
            ids_T=rng.integers(0, N, 30).astype(np.int32),
            actions_T=rng.integers(0, 128, 30).astype(np.uint8),
            times_ms_T=np.sort(rng.integers(0, 10**9, 30)),
        ),
        k=k,
    )


def make_model(name="ifa", seed=0, **changes):
    config = ModelConfig(
        name=name,
        width=8,
        num_heads=2,
        top_k=5,
        tower_widths=(8,),
        id_buckets=300,
        author_buckets=30,
        user_buckets=10,
    )
    return build_model(dataclasses.replace(config, **changes), ITEMS, seed)
