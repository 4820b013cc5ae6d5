"""The true worth of whole slates, in closed form: boredom, joy and leaving included.

Knows everything that is hidden, as `simulator.world.oracle` does, and the session: its mood and
what it has grown bored of. For bounds and measurements, never for a log. Joy follows from utility
without a draw, so how far a user scrolls has an exact distribution and nothing is sampled.

Letters: R requests (one user each), K slate size, P pool of items of each request.
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
from simulator.world.day import DayLog, run_day, run_warmup
from simulator.world.queries import Candidates, RetrievalQuery
from simulator.world.responses import bias, expected_play_s, utility, watch_distribution
from simulator.world.users import Moment, SessionState, joy, leave_probability
from simulator.world.world import ShardState, World

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]
ItemTraits = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.int32]
]
"""Topic, second topic, mix and author, as `SessionState` takes them."""


def slate_watch_s(world: World, moment: Moment, ids_RK: Ids) -> Array:
    """Expected watch seconds of each user's slate, [R].

    The sum over positions of the chance to reach it (nobody left or asked anew before) times the
    expected play of its item after the boredom of all above.
    """
    config, rows = world.config, np.arange(len(ids_RK))
    session = moment.sessions.take(rows)
    bias_R = bias(config, moment.users)
    fresh_RK = fresh_utility(world, moment, ids_RK)
    reach_R, total_R, everybody = np.ones(len(rows)), np.zeros(len(rows)), np.ones(len(rows), bool)
    for k in range(ids_RK.shape[1]):
        item = _traits(world, ids_RK[:, k])
        utility_R = fresh_RK[:, k] - session.boredom(config, *item)
        total_R += reach_R * _play_s(world, ids_RK[:, k], utility_R)
        session.see(everybody, *item, joy(utility_R, bias_R))
        reach_R *= (1 - leave_probability(config, session.joy_U)) * (1 - config.refresh_rate)
    return total_R


def fresh_utility(world: World, moment: Moment, ids_RP: Ids) -> Array:
    """Utility of items before boredom, the session's mood included, [R, P]."""
    mood_R = moment.sessions.mood_U
    return utility(world.config, world.catalog, moment.users, ids_RP, moment.time_ms_R, mood_R)


def boredom_of(world: World, session: SessionState, ids_RP: Ids) -> Array:
    """Utility that each item would lose to repetition if it were shown now, [R, P]."""
    tiled = session.take(np.repeat(np.arange(len(ids_RP)), ids_RP.shape[1]))
    return tiled.boredom(world.config, *_traits(world, ids_RP.ravel())).reshape(ids_RP.shape)


def best_set(
    world: World,
    moment: Moment,
    ids_RP: Ids,
    scores_RP: Array,
    k: int,
    *,
    weight: float,
    session_too: bool,
) -> Ids:
    """Slates [R, k]: greedy by somebody's score, less the true boredom.

    Args:
        world: the world.
        moment: who asks, and when.
        ids_RP: what may be shown.
        scores_RP: what each item is worth by itself.
        k: how many.
        weight: score per unit of utility.
        session_too: False takes off only the boredom that the items above add; True also that of
            what the session has shown before.
    """
    before_RP = 0.0 if session_too else boredom_of(world, moment.sessions, ids_RP)

    def worth(session: SessionState) -> Array:
        return scores_RP - weight * (boredom_of(world, session, ids_RP) - before_RP)

    return _greedy(world, moment, ids_RP, worth, k)


def oracle_set(world: World, moment: Moment, ids_RP: Ids, k: int, *, repetition: bool) -> Ids:
    """Slates [R, k]: greedy by true expected watch time, with or without the boredom of a slate."""
    fresh_RP = fresh_utility(world, moment, ids_RP)

    def worth(session: SessionState) -> Array:
        now = session if repetition else moment.sessions
        return _play_s(world, ids_RP, fresh_RP - boredom_of(world, now, ids_RP))

    return _greedy(world, moment, ids_RP, worth, k)


def _greedy(
    world: World,
    moment: Moment,
    ids_RP: Ids,
    worth: Callable[[SessionState], Array],
    k: int,
) -> Ids:
    """Takes the item of the highest worth in the session as it then stands, k times."""
    rows = np.arange(len(ids_RP))
    session = moment.sessions.take(rows)
    closed_RP, chosen_RK = np.zeros(ids_RP.shape), np.empty((len(ids_RP), k), np.int32)
    # What repetition takes away depends on what was seen, not on how it felt.
    everybody, no_joy_R = np.ones(len(rows), bool), np.zeros(len(rows))
    for position in range(k):
        best_R = (worth(session) + closed_RP).argmax(axis=1)
        chosen_RK[:, position] = ids_RP[rows, best_R]
        closed_RP[rows, best_R] = -np.inf
        session.see(everybody, *_traits(world, chosen_RK[:, position]), no_joy_R)
    return chosen_RK


def _play_s(world: World, ids: Ids, utility: Array) -> Array:
    duration_s = world.catalog.observed.items.duration_ms_N[ids] / 1000
    watch = watch_distribution(world.config, utility, duration_s)
    return expected_play_s(watch, world.config.replay_share)


def _traits(world: World, ids: Ids) -> ItemTraits:
    catalog = world.catalog
    author = catalog.observed.items.author_id_N[ids]
    return catalog.topic_N[ids], catalog.second_N[ids], catalog.mix_N[ids], author


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
