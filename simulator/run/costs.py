"""Measures what arms cost: the limits of the `equal_latency` regime, and a run before it is paid.

Knows models, a clock and the sizes of a run. In the regime `quality` every arm ranks all C
candidates, whatever that costs. Here every arm has the same milliseconds of CPU per request, and
one that cannot rank all candidates in them is given as many as it can rank, the best of each
retrieval channel. Costs are measured when a run is begun and written into its config, so that they
are the same for a run that is resumed, and for everybody who repeats it.

Letters: C candidates.
"""

from __future__ import annotations

import dataclasses
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ifa_ray.config import ModelConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.models import build_model
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import History, RankRequest
from ifa_ray.training.learner import Learner
from ifa_ray.training.samples import TrainingSample
from ifa_ray.training.sources import read_run
from simulator.run.opening import open_run, shard_days
from simulator.run.presets import AA_ARM, RunConfig
from simulator.run.shards import simulate_warmups
from simulator.run.simulate import simulate
from simulator.world.config import START_MS
from simulator.world.world import World

_SHARES = (1.0, 0.5, 0.25)
_TRIALS = 5
_Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """Milliseconds of CPU per request for all arms, and what follows from them."""

    budget_ms: float
    cost_ms: dict[str, float]  # of each learning arm, all C candidates, the longest history
    limits: dict[str, int]  # candidates of each arm that cannot rank all of them in the budget

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{arm}: {cost:.2f} ms with all candidates; "
            + (f"ranks {self.limits[arm]}" if arm in self.limits else "ranks all")
            + f" in {self.budget_ms:.2f} ms"
            for arm, cost in self.cost_ms.items()
        ]


def measure_budget(config: RunConfig, budget: str, clock: _Clock = time.thread_time) -> Budget:
    """Measures the arms of a run on this machine, one thread, the longest histories.

    Args:
        config: arms, model settings and sizes; its `candidate_limits` are not read.
        budget: milliseconds, or the name of a learning arm whose cost it is.
        clock: seconds; CPU time of one thread, which a busy machine does not inflate.

    Raises:
        ConfigError: if `budget` is neither, or not even a slate can be ranked in it.
    """
    C, least = config.world.num_candidates, config.world.slate_size
    points = [max(least, int(share * C)) for share in _SHARES]
    costs = _measure_costs(config, points, clock)
    cost_ms = {arm: costs_ms[0] for arm, costs_ms in costs.items()}
    budget_ms = cost_ms[budget] if budget in cost_ms else _milliseconds(budget, list(cost_ms))
    limits = {}
    for arm, costs_ms in costs.items():
        if arm == budget or cost_ms[arm] <= budget_ms:
            continue
        slope, start = (float(value) for value in np.polyfit(points, costs_ms, 1))
        if slope <= 0:  # a clock's noise: more candidates never cost less
            slope, start = costs_ms[0] / C, 0.0
        limit = max(0, int((budget_ms - start) / slope))
        rule = f"enough for {arm} to rank slate_size == {least} candidates; {limit} fit into it"
        require(limit >= least, "budget", budget, rule)
        if limit < C:
            limits[arm] = limit
    arms = [arm.name for arm in config.parsed_arms]
    if AA_ARM in arms and arms[0] in limits:
        limits[AA_ARM] = limits[arms[0]]
    return Budget(budget_ms=budget_ms, cost_ms=cost_ms, limits=limits)


def _milliseconds(budget: str, arms: Sequence[str]) -> float:
    try:
        value = float(budget)
    except ValueError:
        value = float("nan")
    rule = f"milliseconds > 0, or one of the arms {', '.join(arms)}"
    require(0 < value < float("inf"), "budget", budget, rule)
    return value


def _measure_costs(
    config: RunConfig, points: Sequence[int], clock: _Clock = time.thread_time
) -> dict[str, list[float]]:
    """Milliseconds of each learning arm for a request with so many candidates."""
    items = World(config.world, config.world_seed(0)).catalog.item_table()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as rankers are run; and a clock of one thread misses the others
    try:
        # The control trained again costs what the control costs, whatever a clock says.
        return {
            arm.name: _costs_ms(
                config.model_of(arm.name), items, points, config.world.slate_size, clock
            )
            for arm in config.parsed_arms
            if arm.ranker is None and arm.name != AA_ARM
        }
    finally:
        torch.set_num_threads(threads)


def _costs_ms(
    config: ModelConfig,
    items: ItemTable,
    points: Sequence[int],
    k: int,
    clock: _Clock,
) -> list[float]:
    """Median milliseconds of one request with so many candidates, sizes taking turns."""
    ranker = ModelRanker(build_model(config, items, seed=0), items, version=0)
    seconds: dict[int, list[float]] = {m: [] for m in points}
    for trial in range(_TRIALS + 1):
        for m in points:
            request = _request(items, m, config.max_history, k, trial)
            begun = clock()
            ranker.rank([request])
            spent = clock() - begun
            if trial:  # the first one warms up
                seconds[m].append(spent)
    return [1e3 * float(np.median(seconds[m])) for m in points]


def _request(items: ItemTable, m: int, n: int, k: int, seed: int) -> RankRequest:
    rng = np.random.default_rng([seed, m])
    hours = np.sort(rng.integers(0, 31 * 24, n))
    return RankRequest(
        request_id=seed,
        user_id=seed,
        time_ms=START_MS,
        candidates_C=items.video_id_N[rng.permutation(len(items))[:m]],
        channels_C=rng.integers(0, 6, m).astype(np.int8),
        history=History(
            ids_T=items.video_id_N[rng.integers(0, len(items), n)],
            actions_T=rng.integers(0, 4, n).astype(np.uint8),
            times_ms_T=START_MS - 31 * 86_400_000 + 3_600_000 * hours,
        ),
        k=k,
    )


# Without models, so that a piece is cheap. They bracket what users do under a trained ranker.
_SAMPLE_ARMS = ("random", "oracle")
_SAMPLE_USERS = 24
_SAMPLE_DAYS = 3
_SAMPLE_WARMUP = 2
_TRAIN_STEPS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCost:
    """The estimate of a run; costs are of one CPU thread."""

    requests_per_user_day: tuple[float, float]  # random ranker and oracle; models lie between
    requests: int  # of one arm, all replicates and days, at the higher of those rates
    samples: int  # that one arm learns, all replicates
    world_ms: float  # of one request, everything but a model; half of them ask the oracle
    world_h: float  # of all arms and of the prehistory, core-hours
    log_gib: float  # of all arms and the warm-up
    rank_ms: dict[str, float]  # of a request with all C candidates and the longest history
    train_ms: dict[str, float]  # of a training sample, both passes and the optimiser

    def rank_h(self, arm: str) -> float:
        """Core-hours of ranking in the whole run."""
        return self.requests * self.rank_ms[arm] / 3.6e6

    def train_h(self, arm: str) -> float:
        """Core-hours of training in the whole run."""
        return self.samples * self.train_ms[arm] / 3.6e6

    def lines(self) -> list[str]:
        """For people."""
        low, high = self.requests_per_user_day
        total = self.world_h + sum(self.rank_h(arm) + self.train_h(arm) for arm in self.rank_ms)
        arms = len(self.rank_ms)
        return [
            f"requests: {low:.1f} to {high:.1f} a user and day, so {self.requests:,} an arm; "
            f"{self.samples:,} samples to learn",
            f"world: {self.world_ms:.1f} ms a request, {self.world_h:,.2f} core-hours for all arms",
            f"log: {self.log_gib:,.2f} GiB",
            *(
                f"{arm}: {self.rank_ms[arm]:,.1f} ms a request, {self.rank_h(arm):,.2f} "
                f"core-hours; {self.train_ms[arm]:,.1f} ms a sample, {self.train_h(arm):,.2f} "
                "core-hours"
                for arm in self.rank_ms
            ),
            f"all: {total:,.2f} hours of one core like this one",
            "on GPUs: every millisecond that a card needs for a request is "
            f"{self.requests * arms / 3.6e6:,.2f} hours of it, and for a sample "
            f"{self.samples * arms / 3.6e6:,.2f}; `python -m benchmarks.gpu` measures yours",
        ]


def estimate_run(config: RunConfig, say: Callable[[str], None]) -> RunCost:
    """Simulates a piece of a run and counts the rest; writes nothing that stays.

    Args:
        config: complete.
        say: is given a line of progress now and then.

    Raises:
        ConfigError: if the config is none that could run.
    """
    # Every request is logged, so that their bytes are known and there is what to learn.
    piece = config.replace(
        {
            "arms": _SAMPLE_ARMS,
            "replicates": 1,
            "users": min(_SAMPLE_USERS, config.users),
            "days": min(_SAMPLE_DAYS, config.days),
            "burn_in_days": 0,
            "shards": 1,
            "regime": "quality",
            "budget_ms": 0.0,
            "candidate_limits": (),
            "world.sample_rate": 1.0,
            "world.warmup_requests_per_user": _SAMPLE_WARMUP,
        }
    )
    say(f"simulating {piece.days} days of {piece.users} of {config.users:,} users")
    with tempfile.TemporaryDirectory() as name:
        begun = time.process_time()
        with open_run(Path(name), piece, resume=False) as folder:
            list(simulate_warmups(folder.root, piece, 1))
        prehistory_s = (time.process_time() - begun) / piece.users
        begun = time.process_time()
        simulate(piece, name, processes=1, resume=True, progress=io.StringIO())
        spent_s = time.process_time() - begun
        requests = {arm: _requests(folder, arm, piece) for arm in _SAMPLE_ARMS}
        impression_bytes = _bytes(folder, "impressions") + _bytes(folder, "timings")
        request_bytes = _bytes(folder, "requests")
        samples = read_run(
            folder.root,
            "warmup",
            0,
            max_history=config.model.max_history,
            max_requests=config.training.batch_size * (_TRAIN_STEPS + 1),
        )
    simulated = sum(requests.values())
    logged = simulated + piece.users * _SAMPLE_WARMUP
    rates = [requests[arm] / (piece.users * piece.days) for arm in _SAMPLE_ARMS]
    per_arm = math.ceil(max(rates) * config.users * config.days * config.replicates)
    in_warmup = config.users * config.world.warmup_requests_per_user * config.replicates
    say("ranking requests of full size")
    costs = _measure_costs(config, [config.world.num_candidates])
    rank_ms = {arm: costs_ms[0] for arm, costs_ms in costs.items()}
    train_ms = {}
    for arm in rank_ms:
        say(f"training {arm}")
        learner = Learner(config.model_of(arm), config.training, samples.items, seed=0)
        train_ms[arm] = 1e3 * _sample_seconds(learner, samples.samples)
    arms = [arm.name for arm in config.parsed_arms]
    if AA_ARM in arms:
        rank_ms[AA_ARM], train_ms[AA_ARM] = rank_ms[arms[0]], train_ms[arms[0]]
    all_requests = per_arm * len(arms)
    world_s = all_requests * spent_s / simulated + prehistory_s * config.users * config.replicates
    bytes_each = (impression_bytes + config.world.sample_rate * request_bytes) / logged
    daily = config.train_requests_per_day * config.days * config.replicates
    return RunCost(
        requests_per_user_day=(min(rates), max(rates)),
        requests=per_arm,
        samples=round(in_warmup * config.world.sample_rate) + daily,
        world_ms=1e3 * spent_s / simulated,
        world_h=world_s / 3.6e3,
        log_gib=(all_requests + in_warmup) * bytes_each / 2**30,
        rank_ms=rank_ms,
        train_ms=train_ms,
    )


def _requests(folder: RunFolder, arm: str, config: RunConfig) -> int:
    return sum(folder.summary(key)["requests"] for key in shard_days(config, arm))


def _bytes(folder: RunFolder, table: str) -> int:
    return sum(path.stat().st_size for path in (folder.log / table).rglob("*.parquet"))


def _sample_seconds(learner: Learner, samples: list[TrainingSample]) -> float:
    """CPU of one sample: the median over steps, the first of which warms up."""
    size = learner.training_config.batch_size
    seconds = []
    for step in range(min(_TRAIN_STEPS + 1, len(samples) // size)):
        begun = time.process_time()
        learner.step(samples[step * size : (step + 1) * size])
        seconds.append((time.process_time() - begun) / size)
    return statistics.median(seconds[1:] or seconds)
