import dataclasses

import numpy as np
import pytest
from tiny_worlds import live, tiny_world

from simulator.studies.set_value import (
    Moment,
    best_set,
    boredom_of,
    fresh_utility,
    oracle_set,
    slate_watch_s,
)
from simulator.world.responses import bias, expected_play_s, watch_distribution
from simulator.world.slates import scroll
from simulator.world.users import SessionState

NUM_USERS, K = 4, 6


def moment_in(world, seen=5, seed=0):
    """Users after their warm-up who have seen some items in a session."""
    shard, logs = live(world, range(NUM_USERS), days=0)
    session = SessionState.new(world.config, np.zeros(NUM_USERS, np.int32))
    catalog, rng = world.catalog, np.random.default_rng(seed)
    for _ in range(seen):
        ids = rng.integers(0, 300, NUM_USERS)
        session.see(
            np.ones(NUM_USERS, bool), catalog.topic_N[ids], catalog.second_N[ids],
            catalog.mix_N[ids], catalog.observed.items.author_id_N[ids], np.full(NUM_USERS, 0.2),
        )  # fmt: skip
    time_ms = np.full(NUM_USERS, logs[0].impressions["time_ms"].max(), np.int64)
    return Moment(users=shard.users, sessions=session, time_ms_R=time_ms)


WORLD = tiny_world()
MOMENT = moment_in(WORLD)
POOL = np.stack([np.random.default_rng(u).permutation(600)[:40] for u in range(NUM_USERS)]).astype(
    np.int32
)


def test_a_slates_worth_is_the_mean_of_what_scrolling_through_it_gives():
    """The closed form against draws of leaving and asking anew, item by item."""
    slate_UK, draws = POOL[:, :K], 4_000
    tiled = np.repeat(np.arange(NUM_USERS), draws)
    moment = MOMENT.take(tiled)
    fresh_UK = fresh_utility(WORLD, moment, slate_UK[tiled])
    keys = (np.arange(len(tiled))[:, None], 0, 0, slate_UK[tiled])
    seen = scroll(
        WORLD.config, WORLD.seed, WORLD.catalog, moment.sessions, keys, slate_UK[tiled], fresh_UK,
        bias(WORLD.config, moment.users),
    )  # fmt: skip
    duration_s = WORLD.catalog.observed.items.duration_ms_N[slate_UK[tiled]] / 1000
    watch = watch_distribution(WORLD.config, seen.utility_UK, duration_s)
    play_s = expected_play_s(watch, WORLD.config.replay_share) * seen.seen_UK
    per_user = play_s.sum(axis=1).reshape(NUM_USERS, draws)
    error = per_user.std(axis=1) / np.sqrt(draws)
    assert (abs(per_user.mean(axis=1) - slate_watch_s(WORLD, MOMENT, slate_UK)) < 4 * error).all()


def test_asking_changes_no_moment():
    before = MOMENT.sessions.take(np.arange(NUM_USERS))
    best_set(WORLD, MOMENT, POOL, np.zeros(POOL.shape), K, weight=1.0, session_too=True)
    oracle_set(WORLD, MOMENT, POOL, K, repetition=True)
    slate_watch_s(WORLD, MOMENT, POOL[:, :K])
    for field in dataclasses.fields(before):
        np.testing.assert_array_equal(
            getattr(before, field.name), getattr(MOMENT.sessions, field.name)
        )


def test_weight_0_is_greedy_by_score():
    scores = np.random.default_rng(0).normal(size=POOL.shape)
    chosen = best_set(WORLD, MOMENT, POOL, scores, K, weight=0.0, session_too=True)
    best = np.argsort(-scores, axis=1)[:, :K]
    np.testing.assert_array_equal(chosen, np.take_along_axis(POOL, best, axis=1))


@pytest.mark.parametrize("session_too", [False, True])
def test_equal_scores_leave_the_least_boring_first(session_too):
    scores = np.zeros(POOL.shape)
    chosen = best_set(WORLD, MOMENT, POOL, scores, 1, weight=1.0, session_too=session_too)
    bored = boredom_of(WORLD, MOMENT.sessions, POOL)
    expected = bored.argmin(axis=1) if session_too else np.zeros(NUM_USERS, int)
    np.testing.assert_array_equal(chosen[:, 0], POOL[np.arange(NUM_USERS), expected])


def test_the_oracle_that_knows_repetition_is_worth_more():
    world = tiny_world(topic_boredom=0.6, author_boredom=0.6)
    moment = moment_in(world)
    pool = POOL
    blind = slate_watch_s(world, moment, oracle_set(world, moment, pool, K, repetition=False))
    knowing = slate_watch_s(world, moment, oracle_set(world, moment, pool, K, repetition=True))
    assert knowing.mean() > blind.mean()


def test_without_boredom_repetition_costs_nothing():
    world = tiny_world(topic_boredom=0.0, author_boredom=0.0)
    assert not boredom_of(world, MOMENT.sessions, POOL).any()
