"""What it spares a ranker that a model has learned whom it would not show.

    python -m benchmarks.screening [--quick] [--models A,B] [--preset NAME] [--users N] [--days N]
        [--set NAME=VALUE] [--json PATH]

One arm lives its days by the plain path (`python -m simulator run --plain 1`) and learns; every
request is ranked twice, in turns, with `ifa_ray.screening` and by computing every tower of every
candidate. Both must give the same slate, or the benchmark ends there. Version 0 has learned from
the warm-up, each later one from a day more; what is spared is the model's doing. CPU time of one
thread. --set adds to the default's settings, or to those of a preset that is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from ifa_ray.data.features import build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RankerError, unknown_name
from ifa_ray.models import RankModel
from ifa_ray.ranker import ModelRanker
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.screening import contenders
from simulator.commands.settings import add_set, read_setting
from simulator.compile_ahead import compile_ahead
from simulator.opening import open_run
from simulator.plain_run import live_arm
from simulator.presets import MODEL_ARMS, PRESETS, RunConfig, override, preset
from simulator.warmup_log import live_warmups

__all__ = ["Screened", "main", "measure", "table", "verdicts"]

# Wanted of a request at m = n = 10,000.
MOST_MS = {"ifa": 40.0, "ifa_plus": 60.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A run: a preset with few users and days, and other settings by name."""

    preset: str
    users: int
    days: int
    models: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def config(self) -> RunConfig:
        """Its settings: one replicate, an arm for each model, or more to make it a comparison."""
        arms = tuple(dict.fromkeys((*self.models, *FULL.models)))
        changes = {"arms": arms, "replicates": 1, "users": self.users, "days": self.days,
                   "shards": 1}  # fmt: skip
        return override(preset(self.preset), changes | dict(map(read_setting, self.settings)))


# The paper's sizes, from a small world, so that it is soon lived.
FULL = Size(
    preset="standard", users=6, days=3, models=("ifa", "ifa_plus"),
    settings=("world.num_items=50000", "world.warmup_requests_per_user=4",
              "train_requests_per_day=16"),
)  # fmt: skip
QUICK = Size(preset="smoke", users=4, days=2, models=("ifa",))


Seen = tuple[int, int, float, float, float]
"""A request: version, m, share of contenders, seconds screened and whole."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screened:
    """One version of one model; medians over its requests.

    Attributes:
        candidates, history: m, and the longest n that is read.
        requests: that this version ranked.
        contenders: the share of candidates of which more than the impression was computed.
        screened_ms, whole_ms: of a request.
        spared: 1 - screened / whole; median of the requests' own.
    """

    model: str
    version: int
    candidates: int
    history: int
    requests: int
    contenders: float
    screened_ms: float
    whole_ms: float
    spared: float


class _Both:
    """Ranks every request in both ways, and says what each cost."""

    def __init__(
        self,
        seen: list[Seen],
        model: RankModel,
        items: ItemTable,
        version: int,
        clock: Callable[[], float],
    ) -> None:
        self._seen, self._model, self._items, self._version = seen, model, items, version
        self._rankers = [
            ModelRanker(model, items, version, clock, screens=screens) for screens in (True, False)
        ]
        self._warm = False

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """As `ModelRanker.rank`.

        Raises:
            RankerError: if the two slates differ.
        """
        if not self._warm:
            for ranker in self._rankers:
                ranker.rank(requests[:1])
            self._warm = True
        return [self._rank_one(request) for request in requests]

    def _rank_one(self, request: RankRequest) -> RankResponse:
        (screened, screened_s), (whole, whole_s) = (
            _timed(ranker, request) for ranker in self._rankers
        )
        if screened.ids_K.tolist() != whole.ids_K.tolist():
            raise RankerError(f"request {request.request_id}: the two slates differ.")
        C = len(request.candidates_C)
        share = self._contenders(request) / C
        self._seen.append((self._version, C, share, screened_s, whole_s))
        return screened

    def _contenders(self, request: RankRequest) -> int:
        model, rule = self._model, parse_ranking_rule(self._model.config.ranking_rule)
        with torch.inference_mode():
            inputs = model.tower_inputs(build_batch([request], self._items, model.config))
            return len(contenders(model, inputs, rule, request.k, torch.float32).places_P)


def _timed(ranker: ModelRanker, request: RankRequest) -> tuple[RankResponse, float]:
    begun = time.thread_time()
    (response,) = ranker.rank([request])
    return response, time.thread_time() - begun


def measure(size: Size) -> list[Screened]:
    """Lives every model's days; a row for each of its versions."""
    config = size.config()
    compile_ahead()
    found = []
    with (
        tempfile.TemporaryDirectory() as name,
        open_run(Path(name) / "run", config, resume=False) as folder,
    ):
        for _ in live_warmups(folder.root, config, 1):
            pass
        for arm in (arm for arm in config.parsed_arms if arm.name in size.models):
            seen: list[Seen] = []
            live_arm(folder.root, config, arm, functools.partial(_Both, seen))
            for version in sorted({row[0] for row in seen}):
                rows = [row for row in seen if row[0] == version]
                _, candidates, shares, screened_s, whole_s = zip(*rows, strict=True)
                found.append(
                    Screened(
                        model=arm.name, version=version, candidates=max(candidates),
                        history=config.model.max_history,
                        requests=len(rows), contenders=statistics.median(shares),
                        screened_ms=1e3 * statistics.median(screened_s),
                        whole_ms=1e3 * statistics.median(whole_s),
                        spared=statistics.median(
                            1 - one / other
                            for one, other in zip(screened_s, whole_s, strict=True)
                        ),
                    )
                )  # fmt: skip
    return found


def table(found: list[Screened]) -> str:
    """The results as aligned text."""
    lines = [
        f"  {'model':<12} {'version':>7} {'m':>7} {'requests':>8} {'contenders':>10} "
        f"{'screened ms':>11} {'whole ms':>9} {'spared':>7}"
    ]
    lines += [
        f"  {r.model:<12} {r.version:7} {r.candidates:7,} {r.requests:8} {r.contenders:10.1%} "
        f"{r.screened_ms:11.2f} {r.whole_ms:9.2f} {r.spared:7.0%}"
        for r in found
    ]
    return "\n".join(lines)


def verdicts(found: list[Screened]) -> list[str]:
    """A line for each model at the paper's sizes, for its newest version."""
    newest = {r.model: r for r in found if r.candidates == r.history == 10_000}
    return [
        f"  a request of {r.model} that has learned, m = n = 10,000: {r.screened_ms:.1f} ms, "
        f"wanted <= {MOST_MS[r.model]:g} ms: "
        f"{'met' if r.screened_ms <= MOST_MS[r.model] else 'missed'}"
        for r in newest.values()
        if r.model in MOST_MS
    ]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.screening",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--models", metavar="A,B", help=f"default: {','.join(FULL.models)}")
    parser.add_argument("--preset", choices=sorted(PRESETS), help=f"default: {FULL.preset}")
    parser.add_argument("--users", type=int, metavar="N", help=f"default: {FULL.users}")
    parser.add_argument("--days", type=int, metavar="N", help=f"default: {FULL.days}")
    add_set(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    named = ("preset", "users", "days")
    changes = {name: getattr(options, name) for name in named if getattr(options, name) is not None}
    if options.models is not None:
        changes["models"] = tuple(dict.fromkeys(options.models.split(",")))
        for name in changes["models"]:
            if name not in MODEL_ARMS:
                parser.error(str(unknown_name("models", name, MODEL_ARMS)))
    base = QUICK if options.quick else FULL
    changes["settings"] = (*(() if options.preset else base.settings), *options.set)
    size = dataclasses.replace(base, **changes)
    found = measure(size)
    print(table(found))
    lines = verdicts(found)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {
            "benchmark": "screening", "machine": machine, "verdicts": lines,
            "size": dataclasses.asdict(size),
            "results": [dataclasses.asdict(row) for row in found],
        }  # fmt: skip
        write(options.json, document)


if __name__ == "__main__":
    main()
