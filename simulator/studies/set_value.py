"""The true worth of whole slates, in closed form: boredom, joy and leaving included.

Knows everything that is hidden, as `simulator.world.policy` does, and the session: its mood and
what it has grown bored of. For bounds and measurements, never for a log. Joy follows from utility
without a draw, so how far a user scrolls has an exact distribution and nothing is sampled.

Letters: R requests (one user each), K slate size, P pool of items of each request.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulator.world.arrays import Floats, Ints
from simulator.world.responses import bias, expected_play_s, utility, watch_distribution
from simulator.world.users import Moment, SessionState, joy, leave_probability
from simulator.world.world import World

ItemTraits = tuple[Ints, Ints, Floats, Ints]
"""Topic, second topic, mix and author, as `SessionState` takes them."""


def slate_watch_s(world: World, moment: Moment, ids_RK: Ints) -> Floats:
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


def fresh_utility(world: World, moment: Moment, ids_RP: Ints) -> Floats:
    """Utility of items before boredom, the session's mood included, [R, P]."""
    mood_R = moment.sessions.mood_U
    return utility(world.config, world.catalog, moment.users, ids_RP, moment.time_ms_R, mood_R)


def boredom_of(world: World, session: SessionState, ids_RP: Ints) -> Floats:
    """Utility that each item would lose to repetition if it were shown now, [R, P]."""
    tiled = session.take(np.repeat(np.arange(len(ids_RP)), ids_RP.shape[1]))
    return tiled.boredom(world.config, *_traits(world, ids_RP.ravel())).reshape(ids_RP.shape)


def best_set(
    world: World,
    moment: Moment,
    ids_RP: Ints,
    scores_RP: Floats,
    k: int,
    *,
    weight: float,
    session_too: bool,
) -> Ints:
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

    def worth(session: SessionState) -> Floats:
        return scores_RP - weight * (boredom_of(world, session, ids_RP) - before_RP)

    return _greedy(world, moment, ids_RP, worth, k)


def oracle_set(world: World, moment: Moment, ids_RP: Ints, k: int, *, repetition: bool) -> Ints:
    """Slates [R, k]: greedy by true expected watch time, with or without the boredom of a slate."""
    fresh_RP = fresh_utility(world, moment, ids_RP)

    def worth(session: SessionState) -> Floats:
        now = session if repetition else moment.sessions
        return _play_s(world, ids_RP, fresh_RP - boredom_of(world, now, ids_RP))

    return _greedy(world, moment, ids_RP, worth, k)


def _greedy(
    world: World,
    moment: Moment,
    ids_RP: Ints,
    worth: Callable[[SessionState], Floats],
    k: int,
) -> Ints:
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


def _play_s(world: World, ids: Ints, utility: Floats) -> Floats:
    duration_s = world.catalog.observed.items.duration_ms_N[ids] / 1000
    watch = watch_distribution(world.config, utility, duration_s)
    return expected_play_s(watch, world.config.replay_share)


def _traits(world: World, ids: Ints) -> ItemTraits:
    catalog = world.catalog
    author = catalog.observed.items.author_id_N[ids]
    return catalog.topic_N[ids], catalog.second_N[ids], catalog.mix_N[ids], author
