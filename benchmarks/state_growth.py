"""What a request costs when its user's sequence state is kept, as the history grows.

    python -m benchmarks.state_growth [--quick] [--models A,B] [--counts] [--precision bf16]
        [--json PATH]

The same candidates are ranked for users with histories of growing length n, from their states
(`StatefulRanker`, an empty history in the request) and, but for the longest, from the whole history
(`ModelRanker`). Lengths and ways take turns within a trial, and ratios are medians over trials of
the ratio within one, so that a busy machine disturbs them little; times are CPU time of the one
thread. Then impressions are appended one at a time. Torch and numpy alone.

Letters: m candidates, n behaviours.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.synthetic import catalogue, request
from ifa_ray.config import CROSS_FEATURES, ModelConfig
from ifa_ray.data.features import build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models import build_model
from ifa_ray.models.base import RankModel
from ifa_ray.ranking.ranker import PRECISIONS, ModelRanker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_keeper import HistoryKeeper, part_of
from ifa_ray.ranking.state_ranker import StatefulRanker
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.schema import RankRequest

SEED = 0
NUM_ITEMS = 50_000
MODELS = ("ifa", "ifa_plus")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, growing histories, and the model settings that go with them.

    Attributes:
        lengths: n; all are compared with the first.
        whole_up_to: longer histories are not ranked whole.
    """

    m: int
    lengths: tuple[int, ...]
    whole_up_to: int
    width: int
    top_k: int
    tower_widths: tuple[int, ...]
    trials: int
    appends: int


FULL = Size(
    m=10_000, lengths=(1_000, 10_000, 100_000, 1_000_000), whole_up_to=100_000, width=64,
    top_k=100, tower_widths=(128, 64), trials=15, appends=1_000,
)  # fmt: skip
QUICK = Size(
    m=200, lengths=(50, 400), whole_up_to=400, width=16, top_k=4, tower_widths=(16,), trials=3,
    appends=20,
)  # fmt: skip

# What is wanted at m = 10,000.
FLAT, SHARE, SHARE_AT, APPEND_US = 1.1, 0.6, 10_000, 50.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """One model at one length of history; milliseconds of CPU.

    Attributes:
        cached_ms, cached_p25_ms, cached_p75_ms: of ranking from the state; the median, quartiles.
        whole_ms: of ranking from the whole history, median; None if it was not.
        towers_ms: of what no state can save, the rule's towers on all candidates, median.
        times_first: cached, relative to the shortest history; median of trials' ratios.
        of_whole: cached, relative to ranking the same request whole; as above.
        build_ms: of making the state, once.
        append_us, append_mean_us: of appending one impression, microseconds; the
            median, and the mean, which holds the work that is put off.
        state_bytes: of the state, in the cache.
        max_difference: of a score, between the two ways.
        same_slates: share of trials in which both gave the same ids in the same order.
    """

    model: str
    m: int
    n: int
    trials: int
    cached_ms: float
    cached_p25_ms: float
    cached_p75_ms: float
    whole_ms: float | None
    towers_ms: float
    times_first: float
    of_whole: float | None
    build_ms: float
    append_us: float
    append_mean_us: float
    state_bytes: int
    max_difference: float | None
    same_slates: float | None


class _User:
    """A user with n behaviours, and the next ones."""

    def __init__(self, items: ItemTable, n: int, appends: int) -> None:
        asked = request(items, 1, n + appends, seed=SEED, number=n)
        self.n, self.life, self.time_ms = n, asked.history, asked.time_ms

    def asks(self, for_: RankRequest, brought: int) -> RankRequest:
        """The candidates of a request for this user, with the latest so many of n behaviours."""
        return dataclasses.replace(
            for_,
            user_id=self.n,
            time_ms=self.time_ms,
            history=part_of(self.life, self.n - brought, self.n),
        )


def measure(
    size: Size,
    name: str,
    cross_features: tuple[str, ...] = ("channel",),
    clock: Callable[[], float] = time.thread_time,
    precision: str = "fp32",
) -> list[Growth]:
    """Times one model at every length."""
    items = catalogue(NUM_ITEMS, SEED)
    model = _model(name, size, items, cross_features)
    states = SequenceStates(1 << 32)
    kept = StatefulRanker(model, items, 0, states, clock, precision)
    plain = ModelRanker(model, items, 0, clock, precision)
    keeper = HistoryKeeper(model, items)
    users = [_User(items, n, size.appends) for n in size.lengths]
    *asked, warm_up = [
        request(items, size.m, 1, seed=SEED, number=number) for number in range(size.trials + 1)
    ]
    seconds: dict[tuple[str, int], list[float]] = {}

    def timed(task: str, n: int, run: Callable[[], Any]) -> Any:
        start = clock()
        result = run()
        seconds.setdefault((task, n), []).append(clock() - start)
        return result

    state_bytes = {}
    for user in users:
        before = states.stats().state_bytes
        life = part_of(user.life, 0, user.n)
        timed("build", user.n, partial(keeper.append, keeper.empty(), life))
        kept.rank([user.asks(warm_up, user.n)])
        state_bytes[user.n] = states.stats().state_bytes - before
    differences: dict[int, list[float]] = {n: [] for n in size.lengths}
    same: dict[int, list[bool]] = {n: [] for n in size.lengths}
    for one in asked:
        for user in users:
            n, empty = user.n, user.asks(one, 0)
            found = timed("cached", n, partial(kept.rank_at, empty, n))
            if n <= size.whole_up_to:
                (expected,) = timed("whole", n, partial(plain.rank, [user.asks(one, n)]))
                differences[n].append(float(np.abs(found.scores_K - expected.scores_K).max()))
                same[n].append(found.ids_K.tolist() == expected.ids_K.tolist())
        timed("towers", 0, _towers(model, items, users[0].asks(one, size.lengths[0]), precision))
    for user in users:
        state = keeper.empty()
        keeper.append(state, part_of(user.life, 0, user.n))
        for n in range(user.n, user.n + size.appends):
            timed("append", user.n, partial(keeper.append, state, part_of(user.life, n, n + 1)))
    results = []
    for n in size.lengths:
        cached, whole = seconds["cached", n], seconds.get(("whole", n))
        p25, p50, p75 = statistics.quantiles(cached, n=4, method="inclusive")
        results.append(
            Growth(
                model=name,
                m=size.m,
                n=n,
                trials=size.trials,
                cached_ms=p50 * 1e3,
                cached_p25_ms=p25 * 1e3,
                cached_p75_ms=p75 * 1e3,
                whole_ms=statistics.median(whole) * 1e3 if whole else None,
                towers_ms=statistics.median(seconds["towers", 0]) * 1e3,
                times_first=_ratio(cached, seconds["cached", size.lengths[0]]),
                of_whole=_ratio(cached, whole) if whole else None,
                build_ms=seconds["build", n][0] * 1e3,
                append_us=statistics.median(seconds["append", n]) * 1e6,
                append_mean_us=statistics.fmean(seconds["append", n]) * 1e6,
                state_bytes=state_bytes[n],
                max_difference=max(differences[n], default=None),
                same_slates=statistics.fmean(same[n]) if same[n] else None,
            )
        )
    return results


def _model(name: str, size: Size, items: ItemTable, cross_features: tuple[str, ...]) -> RankModel:
    config = ModelConfig(
        name=name,
        cross_features=cross_features,
        width=size.width,
        top_k=size.top_k,
        max_history=max(size.lengths) + size.appends,
        tower_widths=size.tower_widths,
    )
    return build_model(config, items, SEED)


def _towers(
    model: RankModel, items: ItemTable, asked: RankRequest, precision: str
) -> Callable[[], torch.Tensor]:
    dtype, rule = PRECISIONS[precision], parse_ranking_rule(model.config.ranking_rule)
    with torch.inference_mode():
        inputs = model.tower_inputs(build_batch([asked], items, model.config))

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model.logits_of(inputs, dtype, rule.objectives)

    return run


def _ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def table(results: list[Growth]) -> str:
    """The results as aligned text, one line per model and length."""
    lines = [
        f"m = {results[0].m:,}, {results[0].trials} trials; CPU milliseconds",
        f"  {'model':<12} {'n':>9} {'cached':>8} {'p25':>8} {'p75':>8} {'x first':>8} {'whole':>8}"
        f" {'of whole':>8} {'towers':>8} {'build':>8} {'append µs':>10} {'mean':>7} {'KB':>7}"
        f" {'max diff':>9} {'same':>5}",
    ]
    for r in results:
        whole, of_whole, difference, same = (
            (f"{r.whole_ms:.2f}", f"{r.of_whole:.0%}", f"{r.max_difference:.0e}",
             f"{r.same_slates:.0%}")
            if r.whole_ms is not None else ("-", "-", "-", "-")
        )  # fmt: skip
        lines.append(
            f"  {r.model:<12} {r.n:9,} {r.cached_ms:8.2f} {r.cached_p25_ms:8.2f} "
            f"{r.cached_p75_ms:8.2f} {r.times_first:8.3f} {whole:>8} {of_whole:>8} "
            f"{r.towers_ms:8.2f} {r.build_ms:8.1f} {r.append_us:10.1f} {r.append_mean_us:7.1f} "
            f"{r.state_bytes / 1e3:7.1f} {difference:>9} {same:>5}"
        )
    return "\n".join(lines)


def verdicts(results: list[Growth]) -> list[str]:
    """For each model: flat in n, a fraction of the whole request, a quick append."""
    lines = []
    for model in dict.fromkeys(r.model for r in results if r.m == 10_000):
        of_model = [r for r in results if r.model == model and r.m == 10_000]
        worst = max(of_model, key=lambda r: r.times_first)
        lines.append(
            f"  {model}: from a state at most {worst.times_first:.3f} times the shortest history's "
            f"(n = {worst.n:,}), wanted <= {FLAT:g}: {_met(worst.times_first <= FLAT)}"
        )
        for r in of_model:
            if r.n == SHARE_AT and r.of_whole is not None and r.whole_ms is not None:
                met = r.of_whole <= SHARE
                why = "" if met else f"; the towers alone are {r.towers_ms / r.whole_ms:.0%}"
                lines.append(
                    f"  {model}: {r.of_whole:.0%} of the whole request at n = {r.n:,}, "
                    f"wanted <= {SHARE:.0%}: {_met(met)}{why}"
                )
        slowest = max(of_model, key=lambda r: r.append_us)
        lines.append(
            f"  {model}: {slowest.append_us:.1f} microseconds an append (n = {slowest.n:,}), "
            f"wanted <= {APPEND_US:g}: {_met(slowest.append_us <= APPEND_US)}"
        )
    return lines


def _met(met: bool) -> str:
    return "met" if met else "missed"


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.state_growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--models", default=",".join(MODELS), metavar="A,B", help="default: all")
    parser.add_argument("--counts", action="store_true", help="all cross features, for all models")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of ranking")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    names = tuple(dict.fromkeys(options.models.split(",")))
    for name in names:
        if name not in MODELS:
            parser.error(str(unknown_name("models", name, MODELS)))
    cross_features = CROSS_FEATURES if options.counts else ("channel",)
    size = QUICK if options.quick else FULL
    results = [
        result
        for name in names
        for result in measure(size, name, cross_features, precision=options.precision)
    ]
    print(table(results))
    lines = verdicts(results)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"ranked in {options.precision}, cross features {', '.join(cross_features)}")
    if options.json:
        document = {
            "benchmark": "state_growth",
            "machine": machine,
            "verdicts": lines,
            "precision": options.precision,
            "cross_features": cross_features,
            "results": [dataclasses.asdict(result) for result in results],
        }
        write(options.json, document)


if __name__ == "__main__":
    main()
