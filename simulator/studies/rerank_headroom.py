"""What a set step recovers of what repetition costs a greedy list, measured by the oracle.

A ranker learns the warm-up and the first days of a world; then its users live on, several requests
to a session, shown its greedy lists. For each of those requests the true expected watch time of
whole slates (`simulator.studies.set_value`) is compared:

    greedy       the best K by the learned score
    best_set     greedy by the learned score less the *true* boredom, at the weight that turns out
                 best: an oracle of repetition, not of items, so what a set step could reach at most
                 if repetition were all that it corrected
    mmr, dpp, learned   the set steps; `learned_slate` is the learned one with the session left out
    oracle_greedy, oracle_set   by true expected watch time, without and with the slate's boredom

Knows the whole world and a learner; plain numpy and torch, no Ray.

Letters: R requests, C candidates, P pool, K slate size, L objectives.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import Config, require
from ifa_ray.data.features import build_batch
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS
from ifa_ray.models.base import RankModel
from ifa_ray.ranking.ranker import ModelRanker, ranking_scores, top_k
from ifa_ray.reranking.step import SetStep
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.training.learner import Learner
from ifa_ray.training.samples import LogFollower
from simulator.run.presets import RunConfig
from simulator.studies.set_value import best_set, fresh_utility, oracle_set, slate_watch_s
from simulator.world.day import DayLog, run_day, run_warmup
from simulator.world.queries import Candidates, RetrievalQuery
from simulator.world.users import Moment
from simulator.world.world import ShardState, World

"""Topic, second topic, mix and author, as `SessionState` takes them."""


WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Score per unit of utility, tried for `best_set`."""

STRENGTHS: Mapping[str, float] = {"mmr": 3.0, "dpp": 1.0, "learned": 6.0}
"""Chosen on seeds 9010 to 9013 of the balanced world."""

ORACLE_POOL = 200
CHUNK = 64
_SLATE_FEATURES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadroomSettings(Config):
    """One measurement.

    Attributes:
        model: a key of `MODELS`.
        users: of each world, all of whom teach and are asked.
        learn_days: days under the ranker before anything is measured.
        measured_days: days whose requests are measured.
        rules: ranking rules to measure; users are shown the first one's lists.
        strengths: of `mmr`, `dpp` and `learned`, in this order.
    """

    model: str = "ifa"
    users: int = 96
    learn_days: int = 1
    measured_days: int = 2
    rules: tuple[str, ...] = ("pitctr", "long_view")
    strengths: tuple[float, ...] = tuple(STRENGTHS.values())

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise unknown_name("model", self.model, MODELS)
        for field in ("users", "measured_days"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        require(self.learn_days >= 0, "learn_days", self.learn_days, ">= 0")
        require(len(self.rules) >= 1, "rules", self.rules, "at least one")
        require(len(self.strengths) == len(STRENGTHS), "strengths", self.strengths,
                f"{len(STRENGTHS)} numbers, of {', '.join(STRENGTHS)}")  # fmt: skip


Values = dict[tuple[str, str], npt.NDArray[np.float64]]
"""Expected watch seconds of each request's slate, by rule and by who chose it."""


def measure_headroom(
    config: RunConfig,
    seeds: Sequence[int],
    settings: HeadroomSettings,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measures some worlds, and pools them.

    Args:
        config: gives world, model sizes and training.
        seeds: of the worlds.
        settings: the rest.
        say: is given a line of progress now and then.

    Returns:
        JSON values: the settings, and by rule and chooser the mean watch seconds, the gain over
        greedy with its standard error, and the share of the headroom recovered with its own.
        Errors are clustered by user.
    """
    parts, users = [], []
    for seed in seeds:
        study = _Study(config, seed, settings, functools.partial(_with_seed, say, seed))
        values, user_ids = study.live()
        parts.append(values)
        users.append(user_ids.astype(np.int64) + seed * 1_000_000)
    pooled = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {
        "seeds": list(seeds),
        "settings": settings.to_dict(),
        "requests": int(sum(map(len, users))),
        "users": len(np.unique(np.concatenate(users))),
        "rules": {rule: _summary(rule, pooled, np.concatenate(users)) for rule in settings.rules},
    }


class _Study:
    """One world: its ranker, its users, and what was measured of their requests."""

    def __init__(
        self, config: RunConfig, seed: int, settings: HeadroomSettings, say: Callable[[str], None]
    ) -> None:
        self._settings, self._say = settings, say
        self._world = World(config.world, seed)
        self._shard = ShardState.new(self._world, np.arange(settings.users, dtype=np.int32))
        self._items = self._world.catalog.item_table()
        # The step learns beside the ranker; at strength 0 the lists stay greedy.
        self._model_config = dataclasses.replace(
            config.model, name=settings.model, ranking_rule=settings.rules[0],
            set_step="learned", set_strength=0.0,
        )  # fmt: skip
        self._learner = Learner(self._model_config, config.training, self._items, seed + 1)
        self._follower = LogFollower(max_history=self._model_config.max_history)
        self._moment: Moment | None = None
        self._values: list[Values] = []
        self._user_ids: list[npt.NDArray[np.int32]] = []

    def live(self) -> tuple[Values, npt.NDArray[np.int32]]:
        """Lives warm-up, learning and measured days; the values, and who asked."""
        self._say("warm-up")
        self._learn(asyncio.run(run_warmup(self._world, self._shard)))
        for day in range(self._settings.learn_days + self._settings.measured_days):
            measured = day >= self._settings.learn_days
            log = self._live_day(day, measured)
            self._say(f"day {day}: {log.num_requests} requests{' measured' * measured}")
            if not measured:
                self._learn(log)
        pooled = {
            key: np.concatenate([values[key] for values in self._values]) for key in self._values[0]
        }
        return pooled, np.concatenate(self._user_ids)

    def _learn(self, log: DayLog) -> None:
        self._follower.append(log.impressions)
        samples = self._follower.samples(log.requests, log.impressions)
        samples.sort(key=lambda s: (s.request.time_ms, s.request.request_id))
        self._say(f"learning from {len(samples)} requests")
        metrics = self._learner.train(samples)
        self._say("click AUC {is_click}, long view {long_view}".format(**metrics.auc))

    def _live_day(self, day: int, measured: bool) -> DayLog:
        # A copy: a ranker freezes its model, and this one learns again.
        model = copy.deepcopy(self._learner.model)
        ranker = ModelRanker(model, self._items, version=day)
        steps = self._steps() if measured else {}

        async def find(query: RetrievalQuery) -> Candidates:
            return self._world.retrieval.retrieve(query)

        async def rank(requests: list[RankRequest]) -> list[RankResponse]:
            if measured:
                log_p = [self._log_p(model, request) for request in requests]
                for start in range(0, len(requests), CHUNK):
                    rows = np.arange(start, min(start + CHUNK, len(requests)))
                    self._measure(rows, requests, log_p, steps)
            return ranker.rank(requests)

        return asyncio.run(
            run_day(
                self._world, self._shard, day, retrieve=find, rank=rank, model_version=day,
                observe=self._remember,
            )
        )  # fmt: skip

    def _remember(self, moment: Moment) -> None:
        self._moment = moment

    def _log_p(self, model: RankModel, request: RankRequest) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            batch = build_batch([request], self._items, self._model_config)
            return model.log_probabilities(batch)[0].numpy()

    def _steps(self) -> dict[tuple[str, str], SetStep]:
        response = self._learner.model.set_response
        assert response is not None
        weights_LF = response.repetition_weights()
        slate_LF = weights_LF.copy()
        slate_LF[:, _SLATE_FEATURES:] = 0
        steps = {}
        for rule in self._settings.rules:
            strengths = dict(zip(STRENGTHS, self._settings.strengths, strict=True))
            for name, step, weights in (
                ("mmr", "mmr", None),
                ("dpp", "dpp", None),
                ("learned", "learned", weights_LF),
                ("learned_slate", "learned", slate_LF),
            ):
                config = dataclasses.replace(
                    self._model_config, ranking_rule=rule, set_step=step,
                    set_strength=strengths[step],
                )  # fmt: skip
                steps[rule, name] = SetStep(config, self._items, weights)
        return steps

    def _measure(
        self,
        rows: npt.NDArray[np.int64],
        requests: list[RankRequest],
        log_p: list[npt.NDArray[np.float32]],
        steps: Mapping[tuple[str, str], SetStep],
    ) -> None:
        """Values of every chooser's slates for some of the requests made at the moment."""
        assert self._moment is not None
        world, moment, k = self._world, self._moment.take(rows), requests[0].k
        asked = [requests[row] for row in rows]
        pool = self._model_config.set_pool
        slates: dict[tuple[str, str], npt.NDArray[np.int32]] = {}
        for rule in self._settings.rules:
            pools, scores = [], []
            for row, request in zip(rows, asked, strict=True):
                scores_C = np.round(ranking_scores(log_p[row], rule), 5)
                pool_P, _ = top_k(request.candidates_C, scores_C, max(k, pool))
                pools.append(pool_P)
                scores.append(scores_C[pool_P])
            ids_RP = np.stack([r.candidates_C[p] for r, p in zip(asked, pools, strict=True)])
            scores_RP = np.stack(scores)
            slates[rule, "greedy"] = ids_RP[:, :k]
            for weight in WEIGHTS:
                for session_too in (False, True):
                    slates[rule, _best_name(weight, session_too)] = best_set(
                        world, moment, ids_RP, scores_RP, k, weight=weight, session_too=session_too
                    )
            for (of_rule, name), step in steps.items():
                if of_rule == rule:
                    slates[rule, name] = np.stack([
                        request.candidates_C[step.choose(request, p, s, log_p[row][p])[0]]
                        for row, request, p, s in zip(rows, asked, pools, scores, strict=True)
                    ])  # fmt: skip
        ids_RC = np.stack([request.candidates_C for request in asked])
        likely_RP = np.argsort(-fresh_utility(world, moment, ids_RC), axis=1)[:, :ORACLE_POOL]
        ids_RP = np.take_along_axis(ids_RC, likely_RP, axis=1)
        for name, repetition in (("oracle_greedy", False), ("oracle_set", True)):
            slate_RK = oracle_set(world, moment, ids_RP, k, repetition=repetition)
            slates |= {(rule, name): slate_RK for rule in self._settings.rules}
        self._values.append({
            key: slate_watch_s(world, moment, slate_RK) for key, slate_RK in slates.items()
        })  # fmt: skip
        self._user_ids.append(moment.users.user_id_U)


def _best_name(weight: float, session_too: bool) -> str:
    return f"best_set {'session and slate' if session_too else 'slate'} x {weight:g}"


def _with_seed(say: Callable[[str], None], seed: int, text: str) -> None:
    say(f"seed {seed}: {text}")


def _summary(rule: str, values: Values, users: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Gains over greedy, the best of the `best_set`s standing for all of them."""
    mine = {name: value_R for (of_rule, name), value_R in values.items() if of_rule == rule}
    tried = {name: float(v.mean()) for name, v in mine.items() if name.startswith("best_set")}
    best = max(tried, key=lambda name: tried[name])
    if tried[best] < mine["greedy"].mean():  # a weight of 0 is one of the weights
        best = "greedy"
    greedy_R, headroom_R = mine["greedy"], mine[best] - mine["greedy"]
    rows = {}
    names = ("mmr", "dpp", "learned_slate", "learned", "oracle_greedy", "oracle_set")
    for name, value_R in [("best_set", mine[best]), *((name, mine[name]) for name in names)]:
        gain_R = value_R - greedy_R
        share, share_se = _share(gain_R, headroom_R, users)
        rows[name] = {
            "watch_s": float(value_R.mean()),
            "gain_s": float(gain_R.mean()),
            "gain_se": _clustered_se(gain_R, users),
            "gain_relative": float(gain_R.mean() / greedy_R.mean()),
            "share": share,
            "share_se": share_se,
        }
    return {"greedy_watch_s": float(greedy_R.mean()), "best_set_is": best, "rows": rows}


def _share(
    gain_R: npt.NDArray[np.float64],
    headroom_R: npt.NDArray[np.float64],
    users: npt.NDArray[np.int64],
) -> tuple[float | None, float | None]:
    """The gain over the headroom, a ratio of means, and its standard error; None without one."""
    headroom = float(headroom_R.mean())
    if headroom <= 0:
        return None, None
    share = float(gain_R.mean()) / headroom
    return share, _clustered_se((gain_R - share * headroom_R) / headroom, users)


def _clustered_se(x_R: npt.NDArray[np.float64], users: npt.NDArray[np.int64]) -> float:
    """Standard error of a mean whose rows of one user belong together."""
    _, user_R = np.unique(users, return_inverse=True)
    total_U = np.bincount(user_R, x_R - x_R.mean())
    return float(np.sqrt((total_U**2).sum()) / len(x_R))


def format_report(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        f"{report['requests']} requests of {report['users']} users, seeds {report['seeds']}; "
        "seconds of expected watch time per slate, +- s.e. clustered by user"
    ]
    for rule, found in report["rules"].items():
        lines += [
            "",
            f"rule {rule}: greedy {found['greedy_watch_s']:.1f} s; best set is "
            f"{found['best_set_is'].removeprefix('best_set ')}",
            f"  {'':<14} {'watch s':>8} {'gain s':>8} {'s.e.':>6} {'gain':>8} "
            f"{'of the headroom':>18}",
        ]
        for name, row in found["rows"].items():
            known = row["share"] is None or name in ("best_set", "oracle_greedy", "oracle_set")
            share = "" if known else f"{row['share']:.0%} +- {row['share_se']:.0%}"
            lines.append(
                f"  {name:<14} {row['watch_s']:8.1f} {row['gain_s']:+8.2f} {row['gain_se']:6.2f} "
                f"{row['gain_relative']:+8.1%} "
                f"{share:>18}"
            )
    return "\n".join(lines)
