"""What a request costs: models take turns, and memory is what ranking adds."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from films import config

from ifa_ray.data.items import ItemTable
from ifa_ray.evaluation import cost
from ifa_ray.evaluation.cost import _peak_in_a_process, measure_costs
from ifa_ray.evaluation.runs import read_seed
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import History, RankRequest

NUM_ITEMS = 20_000


def catalogue() -> ItemTable:
    ids = np.arange(NUM_ITEMS, dtype=np.int32)
    return ItemTable(
        video_id_N=ids, author_id_N=ids % 500, category_N=ids % 20, duration_ms_N=ids,
        upload_ms_N=ids.astype(np.int64), content_ND=np.zeros((NUM_ITEMS, 4), np.float32),
    )  # fmt: skip


def request(num_candidates: int, num_behaviours: int) -> RankRequest:
    history = History(
        ids_T=np.arange(num_behaviours, dtype=np.int32),
        actions_T=np.ones(num_behaviours, np.uint8),
        times_ms_T=np.arange(num_behaviours, dtype=np.int64),
    )
    return RankRequest(
        request_id=1, user_id=1, time_ms=10**9, k=5, history=history,
        candidates_C=np.arange(num_candidates, dtype=np.int32),
    )  # fmt: skip


def peak(requests: list[RankRequest]) -> int | None:
    settings = config(Path(), models=["ifa"], width=32, top_k=10)
    return _peak_in_a_process(settings, "ifa", catalogue(), requests)


def test_memory_is_what_ranking_adds() -> None:
    small, large = peak([request(10, 10)]), peak([request(NUM_ITEMS, 2_000)])
    if small is None or large is None:
        pytest.skip("this platform cannot reset its high-water mark of memory")
    # The candidates' features alone are 20,000 x 32 float32, and the first layers' inputs more.
    assert large > 4 * NUM_ITEMS * 32
    assert large < 2**30
    assert small < large / 2


def test_models_take_turns_request_by_request(films: Path, monkeypatch) -> None:
    order: list[str] = []

    class Watched(ModelRanker):
        def rank(self, requests):
            order.append(self._model.config.name)
            return super().rank(requests)

    monkeypatch.setattr(cost, "ModelRanker", Watched)
    settings = config(films, timed_requests=3)
    stream = read_seed(settings, 0)
    ticks = itertools.count()
    steps: list[tuple[str, int, int]] = []
    costs = measure_costs(
        settings, stream, lambda *s: steps.append(s), clock=lambda: float(next(ticks))
    )
    assert order == ["avg_pooling", "twin"] * 4  # once unmeasured
    # This clock ticks once a reading: a step of 3 requests takes 1 s, a ranking 1 s.
    assert [c.train_ms for c in costs.values()] == [pytest.approx(1000 / 3)] * 2
    assert {c.rank_ms for c in costs.values()} == {1000.0}
    assert {c.peak_bytes for c in costs.values()} == {7}
    assert steps[0] == ("training steps", 1, 6)
    assert steps[-1] == ("memory", 6, 6)
