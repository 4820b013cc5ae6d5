"""What every arm may rank in the same time: the `equal_latency` regime's limits, measured once.

Knows models, a clock and the sizes of a run. In the regime `quality` every arm ranks all C
candidates, whatever that costs. Here every arm has the same milliseconds of CPU per request, and
one that cannot rank all candidates in them is given as many as it can rank, the best of each
retrieval channel. Costs are measured when a run is begun and written into its config, so that they
are the same for a run that is resumed, and for everybody who repeats it.

Letters: C candidates.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ifa_ray.config import ModelConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.models import build_model
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import History, RankRequest
from simulator.presets import AA_ARM, RunConfig
from simulator.world.config import START_MS
from simulator.world.world import World

_SHARES = (1.0, 0.5, 0.25)
_TRIALS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What was measured, and what follows from it.

    Attributes:
        budget_ms: CPU per request, the same for all arms.
        cost_ms: of each learning arm with all C candidates and the longest history.
        limits: candidates of each arm that cannot rank all of them in the budget.
    """

    budget_ms: float
    cost_ms: dict[str, float]
    limits: dict[str, int]

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{arm}: {cost:.2f} ms with all candidates; "
            + (f"ranks {self.limits[arm]}" if arm in self.limits else "ranks all")
            + f" in {self.budget_ms:.2f} ms"
            for arm, cost in self.cost_ms.items()
        ]


def measure_budget(
    config: RunConfig, budget: str, clock: Callable[[], float] = time.thread_time
) -> Budget:
    """Measures the arms of a run on this machine, one thread, the longest histories.

    Args:
        config: arms, model settings and sizes; its `candidate_limits` are not read.
        budget: milliseconds, or the name of a learning arm whose cost it is.
        clock: seconds; CPU time of one thread, which a busy machine does not inflate.

    Raises:
        ConfigError: if `budget` is neither, or not even a slate can be ranked in it.
    """
    # The control trained again costs what the control costs, whatever a clock says.
    learning = [a.name for a in config.parsed_arms if a.ranker is None and a.name != AA_ARM]
    items = World(config.world, config.world_seed(0)).catalog.item_table()
    C = config.world.num_candidates
    points = [max(config.world.slate_size, int(share * C)) for share in _SHARES]
    fits, cost_ms = {}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as rankers are run; and a clock of one thread misses the others
    try:
        for arm in learning:
            costs = _costs_ms(config.model_of(arm), items, points, config.world.slate_size, clock)
            slope, start = np.polyfit(points, costs, 1)
            fits[arm] = (max(float(slope), 1e-9), float(start))
            cost_ms[arm] = costs[0]
    finally:
        torch.set_num_threads(threads)
    budget_ms = cost_ms[budget] if budget in cost_ms else _milliseconds(budget, learning)
    limits = {}
    for arm, (slope, start) in fits.items():
        limit = int((budget_ms - start) / slope)
        if arm != budget and limit < C and cost_ms[arm] > budget_ms:
            require(limit >= config.world.slate_size, "budget", budget,
                    f"enough for {arm} to rank slate_size == {config.world.slate_size} candidates; "
                    f"{limit} fit into {budget_ms:.2f} ms")  # fmt: skip
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
    require(0 < value < float("inf"), "budget", budget,
            f"milliseconds > 0, or one of the arms {', '.join(arms)}")  # fmt: skip
    return value


def _costs_ms(
    config: ModelConfig,
    items: ItemTable,
    points: Sequence[int],
    k: int,
    clock: Callable[[], float],
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
