"""The costs of the world: users, impressions and requests per second and core, bytes per user.

    python -m benchmarks.world [--quick] [--json PATH]

A million items, 10,000 candidates, histories of up to 10,000: a shard of users gets its whole
prehistory and a day, then stages are timed alone. Times are CPU seconds of one process without Ray.

Others, by their own papers: KuaiSim simulates 160-390 impressions/s, with histories of 100 and no
watch time; Sim4Rec draws 26 million responses/s on 16 cores from a trivial response, 1.6 million a
core.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from ifa_ray.data.history import HistoryBlocks
from ifa_ray.schema import RankRequest, RankResponse
from simulator.run.shards import compile_ahead
from simulator.world.config import DAY_MS, START_MS, WorldConfig, uncalibrated_config, world_config
from simulator.world.day import run_day, run_warmup
from simulator.world.queries import Candidates, Channel, RetrievalQuery, long_profiles, make_query
from simulator.world.retrieval_reference import ReferenceRetrieval
from simulator.world.world import ShardState, World

# What is wanted at a million items and C = 10,000: (part begins with, name, unit, sign, limit).
TARGETS = (
    ("retrieval", "all channels", "ms", "<=", 5.0),
    ("closed loop", "a request", "ms", "<=", 4.0),
    ("warm-up", "whole loop", "impressions/s", ">=", 20_000.0),
    ("retrieval", "content recall of brute force", "share", ">=", 0.9),
)
PER_ROUND = 10  # impressions of a user that are appended to a history at once


@dataclasses.dataclass(frozen=True)
class Result:
    """One figure: the values of its trials."""

    part: str
    name: str
    unit: str
    values: list[float]

    @property
    def quartiles(self) -> list[float]:
        """Lower quartile, median and upper quartile."""
        values = self.values
        return statistics.quantiles(values, n=4, method="inclusive") if values[1:] else 3 * values


def measure(config: WorldConfig, users: int, trials: int, histories: int) -> list[Result]:
    """All figures of a world of some users, and of a store of so many histories of 1,000."""
    compile_ahead()  # compiling is not what is measured
    clock = time.process_time
    start = clock()
    world = World(config, 0)
    built = clock()
    retrieval = world.retrieval
    part = f"world of {config.num_items:,} items"
    results = [
        Result(part, "catalogue", "s", [built - start]),
        Result(part, "index of retrieval", "s", [clock() - built]),
    ]
    shard = ShardState.new(world, np.arange(users, dtype=np.int32))
    start = clock()
    warmup = asyncio.run(run_warmup(world, shard))
    spent, impressions = clock() - start, len(warmup.impressions["video_id"])
    part = f"warm-up of {users} users"
    results += [
        Result(part, "whole loop", "impressions/s", [impressions / spent]),
        Result(part, "whole loop", "users/s", [users / spent]),
        Result(part, "a request", "ms", [1e3 * spent / warmup.num_requests]),
    ]
    query = _noon_query(world, shard)
    few = dataclasses.replace(query, num_candidates=config.warmup_candidates)
    some = query.take(np.arange(users // 8))
    exact = ReferenceRetrieval(world.catalog.observed, config).retrieve(some)
    found = retrieval.retrieve(some)
    near_UC = np.isin(exact.channels_UC, (Channel.RECENT, Channel.LONG))
    recall = [
        float(np.isin(exact.ids_UC[row][near_UC[row]], found.ids_UC[row]).mean())
        for row in range(len(some))
    ]
    part = f"retrieval, C = {query.num_candidates:,}"
    for name, asked in (("all channels", query), (f"C = {few.num_candidates}", few)):
        retrieval.retrieve(asked)
        values = []
        for _ in range(trials):
            start = clock()
            retrieval.retrieve(asked)
            values.append(1e3 * (clock() - start) / len(asked))
        results.append(Result(part, name, "ms", values))
    results.append(Result(part, "content recall of brute force", "share", recall))
    return results + _day(world, shard) + _memory(world, histories)


def _noon_query(world: World, shard: ShardState) -> RetrievalQuery:
    users, nothing = shard.user_ids, np.zeros(len(shard.user_ids), np.int32)
    return make_query(
        world.config,
        shard.histories,
        long_profiles(world.catalog.observed, shard.histories, users),
        user_id_U=users,
        day_U=nothing,
        session_U=nothing,
        round_U=nothing,
        time_ms_U=np.full(len(users), START_MS + DAY_MS // 2, np.int64),
        num_candidates=world.config.num_candidates,
    )


def _day(world: World, shard: ShardState) -> list[Result]:
    """A day of the closed loop, less the time of its stand-in of a ranker."""
    spent = {"retrieval": 0.0, "ranker": 0.0}

    async def retrieve(query: RetrievalQuery) -> Candidates:
        start = time.process_time()
        candidates = world.retrieval.retrieve(query)
        spent["retrieval"] += time.process_time() - start
        return candidates

    async def rank(requests: list[RankRequest]) -> list[RankResponse]:
        start = time.process_time()
        answers = [
            RankResponse(
                request_id=r.request_id,
                ids_K=r.candidates_C[:: len(r.candidates_C) // r.k][: r.k],
                scores_K=np.zeros(r.k, np.float32),
                model_version=0,
            )
            for r in requests
        ]
        spent["ranker"] += time.process_time() - start
        return answers

    start = time.process_time()
    log = asyncio.run(run_day(world, shard, 0, retrieve=retrieve, rank=rank, model_version=0))
    own = time.process_time() - start - spent["ranker"]
    part = f"closed loop's own part, C = {world.config.num_candidates:,}"
    each = 1e3 / log.num_requests
    return [
        Result(part, "retrieval", "ms", [each * spent["retrieval"]]),
        Result(part, "all the rest", "ms", [each * (own - spent["retrieval"])]),
        Result(part, "a request", "ms", [each * own]),
        Result(part, "a day", "impressions/s", [len(log.impressions["video_id"]) / own]),
    ]


def _memory(world: World, num_users: int, length: int = 1_000) -> list[Result]:
    """Fills histories in mapped files as the loop does; nobody is simulated."""
    users = np.arange(num_users, dtype=np.int32)
    hidden_bytes = sum(a.nbytes for a in ShardState.new(world, users).to_arrays().values())
    with tempfile.TemporaryDirectory(prefix="ifa-histories-") as folder:
        store, rows = HistoryBlocks(Path(folder)), np.repeat(users, PER_ROUND)
        start = time.process_time()
        for first in range(0, length, PER_ROUND):
            ids = ((rows * 31 + first) % world.config.num_items).astype(np.int32)
            times = np.full(len(rows), 1_650_000_000_000 + 1_000 * first, np.int64)
            store.append_sorted(rows, ids, (rows % 3).astype(np.uint8), times)
        appended = num_users * length / (time.process_time() - start)
        per_user = store.nbytes / num_users
    part = f"{num_users:,} users x {length:,} impressions, in mapped files"
    return [
        Result(part, "history", "bytes/impression", [per_user / length]),
        Result(part, "appending, 10 of each user at a time", "impressions/s", [appended]),
        Result(part, "hidden state", "bytes/user", [hidden_bytes / num_users]),
    ]


def table(results: list[Result]) -> str:
    """The results as aligned text."""
    lines = []
    for result in results:
        low, middle, high = map(_number, result.quartiles)
        spread = f"  [{low}, {high}], {len(result.values)} trials" if result.values[1:] else ""
        lines.append(f"{result.part:<52} {result.name:<38} {middle:>10} {result.unit}{spread}")
    return "\n".join(lines)


def verdicts(results: list[Result]) -> list[str]:
    """A line for each of `TARGETS`."""
    lines = []
    for part, name, unit, sign, limit in TARGETS:
        for r in results:
            if r.part.startswith(part) and (r.name, r.unit) == (name, unit):
                value = r.quartiles[1]
                met = value <= limit if sign == "<=" else value >= limit
                said = f"{_number(value)} {unit}, wanted {sign} {_number(limit)}"
                lines.append(f"{r.part}, {name}: {said}: {'met' if met else 'missed'}")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(prog="benchmarks.world", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine() | {"numba": numba.__version__}
    if options.quick:
        results = measure(uncalibrated_config("smoke"), users=8, trials=3, histories=50)
    else:
        config = dataclasses.replace(world_config("standard"), num_items=1_000_000)
        results = measure(config, users=192, trials=7, histories=2_000)
    lines = [] if options.quick else verdicts(results)
    print("\n".join([table(results), "", *lines]))
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        rows = [
            {**dataclasses.asdict(r), **dict(zip(("p25", "p50", "p75"), r.quartiles, strict=True))}
            for r in results
        ]
        document = {"benchmark": "world", "machine": machine, "verdicts": lines, "results": rows}
        write(options.json, document)


if __name__ == "__main__":
    main()
