"""Recall of the truly best items: perfect for a stage that cheats, chance for one that is blind."""

import numpy as np
import pytest
from tiny_worlds import TINY, live, tiny_world

from ifa_ray.errors import ConfigError
from simulator.studies.recall import oracle_recall
from simulator.world.config import DAY_MS, START_MS
from simulator.world.policy import expected_watch_s
from simulator.world.queries import Candidates, Channel
from simulator.world.users import drift
from simulator.world.world import World

USERS = np.arange(8, dtype=np.int32)


@pytest.fixture(scope="module")
def shard():
    return live(tiny_world(), USERS, days=0)[0]


def world_with(choose):
    """The tiny world with a stage that gives the channel FRESH to what `choose` picks."""

    class Stage:
        def __init__(self, catalog, _config):
            self.catalog = catalog

        def retrieve(self, query):
            live_U = self.catalog.num_live(query.time_ms_U)
            rows = []
            for row, seen in enumerate(query.seen_US):
                free = np.setdiff1d(np.arange(live_U[row], dtype=np.int32), seen)
                rows.append(np.sort(choose(query, row, free)[: query.num_candidates]))
            ids = np.stack(rows).astype(np.int32)
            return Candidates(ids_UC=ids, channels_UC=np.full(ids.shape, Channel.FRESH, np.int8))

    return World(TINY, 1, retrieval=Stage)


def test_a_stage_that_knows_the_truth_finds_all_and_its_opposite_nothing(shard):
    world = tiny_world()
    users = shard.users.take(np.arange(len(USERS)))
    drift(world.config, world.seed, users, np.full(len(USERS), 1, np.int32))

    def by_truth(sign):
        def choose(query, row, free):
            user, time_ms = users.take(np.array([row])), query.time_ms_U[row : row + 1]
            assert time_ms[0] == START_MS + DAY_MS + DAY_MS // 2
            watch_s = expected_watch_s(world, user, free[None], time_ms)[0]
            return free[np.argsort(-sign * watch_s)]

        return choose

    for sign, share in ((1, 1.0), (-1, 0.0)):
        rows = oracle_recall(world_with(by_truth(sign)), shard, day=1, tops=(20, 80))
        assert rows.drop("lift").rows() == [
            (top, channel, share, 1.0) for top in (20, 80) for channel in ("all", "fresh")
        ]


def test_a_blind_stage_is_no_better_than_chance(shard):
    def any_items(query, row, free):
        return np.random.default_rng([int(query.user_id_U[row])]).permutation(free)

    rows = oracle_recall(world_with(any_items), shard, day=0, tops=(200,))
    assert rows["lift"][0] == pytest.approx(1, abs=0.25)


def test_the_channels_of_the_default_stage_add_up_and_beat_chance(shard):
    rows = oracle_recall(tiny_world(), shard, day=0, tops=(50,))
    channels = rows[1:]
    names = {channel.name.lower() for channel in Channel if channel is not Channel.RANDOM}
    assert set(channels["channel"]) == names
    assert channels["recall"].sum() == pytest.approx(rows["recall"][0])
    assert channels["candidates"].sum() == pytest.approx(1)
    assert rows["lift"][0] > 1.3
    lift = dict(zip(rows["channel"], rows["lift"], strict=True))
    assert lift["long"] > 1.5 * lift["explore"]


def test_measuring_changes_nothing(shard):
    before = {name: array.copy() for name, array in shard.to_arrays().items()}
    oracle_recall(tiny_world(), shard, day=3, tops=(5,))
    for name, array in shard.to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_more_best_items_than_there_are_are_refused(shard):
    with pytest.raises(ConfigError, match=r"top == 5000, must be <= \d+ live, unseen items"):
        oracle_recall(tiny_world(), shard, day=0, tops=(5_000,))
