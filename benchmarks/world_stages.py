"""Times the stages of a world on users who have lived their prehistory in it.

Knows the world's public functions, called as `simulator.day` calls them; no Ray, no model. Times
are CPU seconds of this process, so that they are per core on a machine that others use too.

Letters: U users, R requests, K slate size.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np

from ifa_ray.schema import RankRequest, RankResponse
from simulator.compile_ahead import compile_ahead
from simulator.config import DAY_MS, START_MS, WorldConfig
from simulator.crn import Purpose, uniform
from simulator.day import run_day, run_warmup
from simulator.profiles import long_profiles, make_query
from simulator.queries import Candidates, Channel, RetrievalQuery
from simulator.responses import feedback, is_long_view, play_time_s, watch_distribution
from simulator.retrieval import ChannelRetrieval
from simulator.retrieval_reference import ReferenceRetrieval
from simulator.slates import scroll
from simulator.transition import SessionState, remember_authors, satisfy
from simulator.utility import bias, utility
from simulator.world import ShardState, World

__all__ = ["Result", "Size", "measure_faiss", "measure_stages"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A world to time.

    Attributes:
        config: its settings; C is `config.num_candidates`.
        users: who live in it, all in one batch.
        trials: of each short measurement.
        exact_users: for how many of them the exact neighbours are searched.
        histories: users and impressions of each, of the store that is filled.
    """

    config: WorldConfig
    users: int
    trials: int
    exact_users: int
    histories: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One figure: the median of the trials and its quartiles, all the same where there is one.

    Attributes:
        part: what was measured together.
        name: what it is.
        unit: of the values.
        p50: the median.
        p25: the lower quartile.
        p75: the upper quartile.
        trials: how many.
    """

    part: str
    name: str
    unit: str
    p50: float
    p25: float
    p75: float
    trials: int

    @classmethod
    def of(cls, part: str, name: str, unit: str, values: list[float]) -> Result:
        """From the values of all trials."""
        low, middle, high = (
            statistics.quantiles(values, n=4, method="inclusive") if values[1:] else 3 * values
        )
        return cls(
            part=part, name=name, unit=unit, p50=middle, p25=low, p75=high, trials=len(values)
        )


def measure_stages(
    size: Size, clock: Callable[[], float] = time.process_time
) -> tuple[list[Result], World, ShardState]:
    """Builds a world, lives a warm-up and a day in it, then times its stages one by one."""
    compile_ahead()  # compiling is not what is measured
    world, results = _build(size, clock)
    users = np.arange(size.users, dtype=np.int32)
    shard = ShardState.new(world, users)
    start = clock()
    warmup = asyncio.run(run_warmup(world, shard))
    spent = clock() - start
    impressions = len(warmup.impressions["video_id"])
    part = f"warm-up of {size.users} users"
    results += [
        Result.of(part, "whole loop", "impressions/s", [impressions / spent]),
        Result.of(part, "whole loop", "users/s", [size.users / spent]),
        Result.of(part, "a request", "ms", [1e3 * spent / warmup.num_requests]),
    ]
    query = _noon_query(world, shard)
    results += _retrieval(world, query, size, clock)
    results += _response(world, shard, query, size, clock)
    results += _day(world, shard, clock)
    return results, world, shard


def _build(size: Size, clock: Callable[[], float]) -> tuple[World, list[Result]]:
    start = clock()
    world = World(size.config, 0)
    built = clock()
    _ = world.retrieval
    part = f"world of {size.config.num_items:,} items"
    return world, [
        Result.of(part, "catalogue", "s", [built - start]),
        Result.of(part, "index of retrieval", "s", [clock() - built]),
    ]


def _noon_query(world: World, shard: ShardState) -> RetrievalQuery:
    size = len(shard.user_ids)
    nothing = np.zeros(size, np.int32)
    return make_query(
        world.config, shard.histories,
        long_profiles(world.catalog.observed, shard.histories, shard.user_ids),
        user_id_U=shard.user_ids, day_U=nothing, session_U=nothing, round_U=nothing,
        time_ms_U=np.full(size, START_MS + DAY_MS // 2, np.int64),
        num_candidates=world.config.num_candidates,
    )  # fmt: skip


def _retrieval(
    world: World, query: RetrievalQuery, size: Size, clock: Callable[[], float]
) -> list[Result]:
    """Milliseconds a request, and the share of the exact content candidates that are found."""
    seen = (query.seen_US >= 0).sum(axis=1).mean()
    part = f"retrieval, C = {query.num_candidates:,}, {seen:,.0f} seen on average"
    few = dataclasses.replace(query, num_candidates=world.config.warmup_candidates)
    results = [
        _per_request(part, "all channels", query, lambda: world.retrieval.retrieve(query),
                     size.trials, clock),
        _per_request(part, f"C = {few.num_candidates}, a stripe", query,
                     lambda: world.retrieval.retrieve(few), size.trials, clock),
    ]  # fmt: skip
    some = query.take(np.arange(min(size.exact_users, len(query))))
    assert isinstance(world.retrieval, ChannelRetrieval)
    exact = ReferenceRetrieval(
        world.catalog.observed, world.config, index=world.retrieval.index
    ).retrieve(some)
    found = world.retrieval.retrieve(some)
    shares = [_share_found(exact, found, row) for row in range(len(some))]
    results.append(Result.of(part, "content recall of brute force", "share", shares))
    return results


def _share_found(exact: Candidates, found: Candidates, row: int) -> float:
    near = np.isin(exact.channels_UC[row], (Channel.RECENT, Channel.LONG))
    return float(np.isin(exact.ids_UC[row][near], found.ids_UC[row]).mean())


def _per_request(
    part: str, name: str, query: RetrievalQuery, work: Callable[[], object], trials: int,
    clock: Callable[[], float],
) -> Result:  # fmt: skip
    work()
    values = []
    for _ in range(trials):
        start = clock()
        work()
        values.append(1e3 * (clock() - start) / len(query))
    return Result.of(part, name, "ms", values)


def _response(
    world: World, shard: ShardState, query: RetrievalQuery, size: Size, clock: Callable[[], float]
) -> list[Result]:
    """The rest of a request: exposure, response and transition, each alone on whole slates."""
    config, catalog, seed = world.config, world.catalog, world.seed
    items = catalog.observed.items
    slate_RK = world.retrieval.retrieve(query).ids_UC[:, :: query.num_candidates // 10][:, :10]
    users = shard.users.take(np.arange(len(query)))
    keys = (query.user_id_U[:, None], query.day_U[:, None], query.session_U[:, None], slate_RK)
    bias_R, mood_R = bias(config, users), np.zeros(len(query), np.int32)
    duration_ms_RK = items.duration_ms_N[slate_RK]

    def expose() -> object:
        fresh_RK = utility(config, catalog, users, slate_RK, query.time_ms_U, mood_R)
        session = SessionState.new(config, mood_R)
        return scroll(config, seed, catalog, session, keys, slate_RK, fresh_RK, bias_R)

    utility_RK = utility(config, catalog, users, slate_RK, query.time_ms_U, mood_R)

    def respond() -> np.ndarray:
        watch = watch_distribution(config, utility_RK, duration_ms_RK / 1000)
        loops_RK = uniform(seed, Purpose.REPLAY, *keys) < config.replay_share
        play_s_RK = play_time_s(watch, uniform(seed, Purpose.WATCH, *keys), loops_RK)
        play_ms_RK = np.rint(1000 * play_s_RK).astype(np.int32)
        feedback(config, seed, keys, utility_RK, play_ms_RK, duration_ms_RK)
        return play_ms_RK

    long_RK = is_long_view(respond(), duration_ms_RK)
    everybody_RK = np.ones(slate_RK.shape, bool)

    def change() -> None:
        remember_authors(users, items.author_id_N[slate_RK], long_RK)
        satisfy(users, np.tanh(utility_RK), everybody_RK)

    part = f"rest of a request, {len(query)} at a time"
    results = [
        _per_request(part, name, query, work, size.trials, clock)
        for name, work in (("exposure", expose), ("response", respond), ("transition", change))
    ]
    per_second = [1e3 * slate_RK.shape[1] / r for r in _quartiles(results[1])]
    results.append(Result.of(part, "response kernel alone", "impressions/s", per_second))
    return results


def _quartiles(result: Result) -> list[float]:
    return [result.p25, result.p50, result.p75]


def _day(world: World, shard: ShardState, clock: Callable[[], float]) -> list[Result]:
    """A day of the closed loop, less what its stand-in of a ranker takes."""
    asked = {"retrieval": 0.0, "ranker": 0.0}

    async def retrieve(query: RetrievalQuery) -> Candidates:
        start = clock()
        candidates = world.retrieval.retrieve(query)
        asked["retrieval"] += clock() - start
        return candidates

    async def rank(requests: list[RankRequest]) -> list[RankResponse]:
        start = clock()
        answers = [
            RankResponse(
                request_id=r.request_id, ids_K=r.candidates_C[:: len(r.candidates_C) // r.k][: r.k],
                scores_K=np.zeros(r.k, np.float32), model_version=0,
            )
            for r in requests
        ]  # fmt: skip
        asked["ranker"] += clock() - start
        return answers

    start = clock()
    log = asyncio.run(run_day(world, shard, 0, retrieve=retrieve, rank=rank, model_version=0))
    own = clock() - start - asked["ranker"]
    part = f"closed loop's own part, C = {world.config.num_candidates:,}"
    per_request = 1e3 / log.num_requests
    return [
        Result.of(part, "retrieval", "ms", [per_request * asked["retrieval"]]),
        Result.of(part, "all the rest", "ms", [per_request * (own - asked["retrieval"])]),
        Result.of(part, "a request", "ms", [per_request * own]),
        Result.of(part, "a day", "impressions/s", [len(log.impressions["video_id"]) / own]),
    ]


def measure_faiss(world: World, clock: Callable[[], float] = time.process_time) -> list[Result]:
    """One content channel by faiss's inverted file on one core, where it is installed.

    The same vectors, the same number of cells, live items by a selector; each of four vectors is
    searched for the whole quota, as any of them may bring all of it, and the answers are merged.
    """
    try:
        import faiss  # a comparison, not a dependency
    except ImportError:
        return []
    faiss.omp_set_num_threads(1)
    observed = world.catalog.observed
    content_ND = observed.content_q_ND
    num_cells, width = round(len(content_ND) ** 0.5), content_ND.shape[1]
    start = clock()
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.train(content_ND[:: max(1, len(content_ND) // (64 * num_cells))])
    index.add(content_ND)
    part = f"faiss {faiss.__version__} IndexIVFFlat, one content channel"
    results = [Result.of(part, "index", "s", [clock() - start])]
    live = int(observed.num_live(np.array([START_MS]))[0])
    quota = 3 * world.config.num_candidates // 10
    rng = np.random.default_rng(0)
    for probes in (12, 24, 48):
        spent, shares = [], []
        for _ in range(20):
            query_VD = content_ND[rng.integers(0, live, 4)]
            start = clock()
            settings, only_live = faiss.SearchParametersIVF(), faiss.IDSelectorRange(0, live)
            settings.nprobe, settings.sel = probes, only_live
            scores, ids = index.search(query_VD, quota, params=settings)
            merged = ids.ravel()[np.argsort(-scores.ravel(), kind="stable")]
            best = merged[np.sort(np.unique(merged, return_index=True)[1])][:quota]
            spent.append(1e3 * (clock() - start))
            exact_n = (content_ND[:live] @ query_VD.T).max(axis=1)
            cut = np.partition(exact_n, live - quota)[live - quota]
            shares.append(float((exact_n[best[best >= 0]] >= cut).sum() / quota))
        name = f"{probes} probes a vector"
        results += [
            Result.of(part, name, "ms", spent),
            Result.of(part, f"{name}, recall", "share", shares),
        ]
    return results
