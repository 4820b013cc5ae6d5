"""What a shard keeps its histories in, and how its queries are cut, changes nothing."""

import asyncio

import numpy as np
from test_day import assert_same
from tiny_worlds import answer_with, first_candidates, live, live_day, rows_of, tiny_world

from ifa_ray.data.history import HistoryBlocks
from simulator.world import retrieval
from simulator.world.day import run_warmup
from simulator.world.world import ShardState

USERS = np.arange(9, dtype=np.int32)


def test_histories_in_mapped_files_are_lived_to_the_same_bytes(tmp_path):
    world = tiny_world()
    _, in_memory = live(world, USERS, days=1)
    shard = ShardState.new(world, USERS, HistoryBlocks(tmp_path))
    warmup = asyncio.run(run_warmup(world, shard))
    day = live_day(world, shard, 0, answer_with(first_candidates))
    for log, other in zip(in_memory, (warmup, day), strict=True):
        assert_same(rows_of([log]), rows_of([other]))
    assert (tmp_path / "ids").stat().st_size > 0


def test_candidates_do_not_depend_on_how_queries_are_cut(monkeypatch):
    world = tiny_world()
    _, whole = live(world, USERS, days=1)
    monkeypatch.setattr(retrieval, "_CHUNK_DRAWS", 1)
    _, one_by_one = live(world, USERS, days=1)
    for log, other in zip(whole, one_by_one, strict=True):
        assert_same(rows_of([log]), rows_of([other]))


def test_a_shard_of_nobody_lives_its_warmup():
    shard, logs = live(tiny_world(), np.empty(0, np.int32), days=1)
    assert len(shard.user_ids) == 0
    assert [len(log.impressions["video_id"]) for log in logs] == [0, 0]
