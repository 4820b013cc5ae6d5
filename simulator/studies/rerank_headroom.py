"""`python -m simulator rerank-headroom`: what re-ranking recovers of what repetition costs a list.

A ranker learns the warm-up and the first days of a world; then its users come back for days under
its greedy lists. For each of those requests the true expected watch time of whole slates
(`simulator.studies.set_value`) is compared:

    greedy       the best K by the learned score
    best_set     greedy by the learned score less the *true* boredom, at the weight that turns out
                 best: an oracle of repetition, not of items, so what re-ranking could reach at most
                 if repetition were all that it corrected
    mmr, dpp, learned   the ways of re-ranking; `learned_slate` is without the session
    oracle_greedy, oracle_set   by true expected watch time, without and with the slate's boredom

Knows the whole world and a learner; plain numpy and torch, no Ray.

Letters: R requests, C candidates, P pool, K slate size, L objectives.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ifa_ray.config import Config, add_flags, flags_given, require, setting
from ifa_ray.data.features import build_batch
from ifa_ray.models import MODELS
from ifa_ray.models.base import RankModel
from ifa_ray.ranking.ranker import ModelRanker, top_k
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.reranking.step import SetStep
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.training.learner import Learner
from ifa_ray.training.samples import LogFollower
from simulator.cli.settings import add_command, add_world, preset_of
from simulator.run.presets import RunConfig
from simulator.studies.set_value import best_set, fresh_utility, oracle_set, slate_watch_s
from simulator.world.arrays import Floats, Ints, Longs
from simulator.world.day import DayLog, run_day, run_warmup
from simulator.world.queries import Candidates, RetrievalQuery
from simulator.world.users import Moment
from simulator.world.world import ShardState, World

WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Score per unit of utility, tried for `best_set`."""

STRENGTHS: Mapping[str, float] = {"mmr": 3.0, "dpp": 1.0, "learned": 6.0}
"""Chosen on seeds 9010 to 9013 of the balanced world."""

ORACLE_POOL = 200
CHUNK = 64
_SLATE_FEATURES = 4

_HELP = """\
Measures, by the oracle, what re-ranking recovers of what repetition costs a greedy list.

A ranker learns a world's warm-up and first days; then, for each request that its users make, the
true expected watch time of whole slates is compared: the greedy list by learned score, the best set
under the same scores (repetition known exactly), mmr, dpp and learned re-ranking, and the two
that know everything. Plain Python, no Ray; about two minutes a world. See docs/re-ranking.md.

examples:
  python -m simulator rerank-headroom --world balanced --seed 1 --seeds 5
  python -m simulator rerank-headroom --preset smoke --users 12
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadroomSettings(Config):
    """One measurement."""

    model: str = setting("ifa", "that learns and ranks", choices=MODELS)
    users: int = setting(96, "of each world, all of whom teach and are asked", ge=1)
    learn_days: int = setting(1, "under the ranker before anything is measured", ge=0)
    measured_days: int = setting(2, "whose requests are measured", ge=1)
    rules: tuple[str, ...] = setting(
        ("pitctr", "long_view"), "ranking rules; users are shown the first one's lists"
    )
    strengths: tuple[float, ...] = setting(
        tuple(STRENGTHS.values()), f"of {', '.join(STRENGTHS)} re-ranking"
    )

    def check(self) -> None:
        """Checks rules between settings."""
        require(len(self.rules) >= 1, "rules", self.rules, "at least one")
        rule = f"{len(STRENGTHS)} numbers, of {', '.join(STRENGTHS)}"
        require(len(self.strengths) == len(STRENGTHS), "strengths", self.strengths, rule)


def add_rerank_headroom(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    headroom = add_command(commands, "rerank-headroom", _HELP)
    add_world(headroom)
    headroom.add_argument("--seed", type=int, default=9000, metavar="N", help="default: 9000")
    headroom.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="this many worlds from --seed on"
    )
    add_flags(headroom, HeadroomSettings, HeadroomSettings.__dataclass_fields__)


def run_rerank_headroom(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    require(args.seeds >= 1, "seeds", args.seeds, ">= 1")
    seeds = range(args.seed, args.seed + args.seeds)
    settings = HeadroomSettings().replace(flags_given(args))
    report = measure_headroom(
        preset_of(args), seeds, settings, lambda text: print(text, file=sys.stderr, flush=True)
    )
    print(format_report(report))
    return 0


Values = dict[tuple[str, str], Floats]
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
        values, user_ids = _Study(config, seed, settings, say).measure()
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
        self._settings, self._seed, self._tell = settings, seed, say
        self._world = World(config.world, seed)
        self._shard = ShardState.new(self._world, np.arange(settings.users, dtype=np.int32))
        self._items = self._world.catalog.item_table()
        # The step learns beside the ranker; at strength 0 the lists stay greedy.
        self._model_config = dataclasses.replace(
            config.model,
            name=settings.model,
            ranking_rule=settings.rules[0],
            set_step="learned",
            set_strength=0.0,
        )
        self._learner = Learner(self._model_config, config.training, self._items, seed + 1)
        self._follower = LogFollower(max_history=self._model_config.max_history)
        self._moment: Moment | None = None
        self._values: list[Values] = []
        self._user_ids: list[Ints] = []

    def _say(self, text: str) -> None:
        self._tell(f"seed {self._seed}: {text}")

    def measure(self) -> tuple[Values, Ints]:
        """Simulates warm-up, learning and measured days; the values, and who asked."""
        self._say("warm-up")
        self._learn(asyncio.run(run_warmup(self._world, self._shard)))
        for day in range(self._settings.learn_days + self._settings.measured_days):
            measured = day >= self._settings.learn_days
            log = self._simulate_day(day, measured)
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

    def _simulate_day(self, day: int, measured: bool) -> DayLog:
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
                self._world,
                self._shard,
                day,
                retrieve=find,
                rank=rank,
                model_version=day,
                observe=self._remember,
            )
        )

    def _remember(self, moment: Moment) -> None:
        self._moment = moment

    def _log_p(self, model: RankModel, request: RankRequest) -> np.ndarray:
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
                    self._model_config,
                    ranking_rule=rule,
                    set_step=step,
                    set_strength=strengths[step],
                )
                steps[rule, name] = SetStep(config, self._items, weights)
        return steps

    def _measure(
        self,
        rows: Longs,
        requests: list[RankRequest],
        log_p: list[np.ndarray],
        steps: Mapping[tuple[str, str], SetStep],
    ) -> None:
        """Values of every chooser's slates for some of the requests made at the moment."""
        assert self._moment is not None
        world, moment, k = self._world, self._moment.take(rows), requests[0].k
        asked = [requests[row] for row in rows]
        pool = self._model_config.set_pool
        slates: dict[tuple[str, str], Ints] = {}
        for rule in self._settings.rules:
            pools, scores = [], []
            for row, request in zip(rows, asked, strict=True):
                scores_C = np.round(parse_ranking_rule(rule).scores(log_p[row]), 5)
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
                    slates[rule, name] = np.stack(
                        [
                            ids_P[step.choose(request, ids_P, s, log_p[row][p])[0]]
                            for row, request, ids_P, p, s in zip(
                                rows, asked, ids_RP, pools, scores, strict=True
                            )
                        ]
                    )
        ids_RC = np.stack([request.candidates_C for request in asked])
        likely_RP = np.argsort(-fresh_utility(world, moment, ids_RC), axis=1)[:, :ORACLE_POOL]
        ids_RP = np.take_along_axis(ids_RC, likely_RP, axis=1)
        for name, repetition in (("oracle_greedy", False), ("oracle_set", True)):
            slate_RK = oracle_set(world, moment, ids_RP, k, repetition=repetition)
            slates |= {(rule, name): slate_RK for rule in self._settings.rules}
        self._values.append(
            {key: slate_watch_s(world, moment, slate_RK) for key, slate_RK in slates.items()}
        )
        self._user_ids.append(moment.users.user_id_U)


def _best_name(weight: float, session_too: bool) -> str:
    return f"best_set {'session and slate' if session_too else 'slate'} x {weight:g}"


def _summary(rule: str, values: Values, users: Longs) -> dict[str, Any]:
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
    gain_R: Floats,
    headroom_R: Floats,
    users: Longs,
) -> tuple[float | None, float | None]:
    """The gain over the headroom, a ratio of means, and its standard error; None without one."""
    headroom = float(headroom_R.mean())
    if headroom <= 0:
        return None, None
    share = float(gain_R.mean()) / headroom
    return share, _clustered_se((gain_R - share * headroom_R) / headroom, users)


def _clustered_se(x_R: Floats, users: Longs) -> float:
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
