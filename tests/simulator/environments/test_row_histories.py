import numpy as np
import pytest
from small_environments import SMALL, USERS

from ifa_ray.schema import History
from simulator.environments.histories import DEAD_PER_ROW, RowHistories
from simulator.environments.starts import population
from simulator.world import ShardState


def history(*ids):
    n = len(ids)
    return History(
        ids_T=np.array(ids, np.int32), actions_T=np.zeros(n, np.uint8), times_ms_T=np.arange(n)
    )


def rows_of_nobody(num_rows):
    world = population(SMALL, 0, USERS).world
    return RowHistories(num_rows, lambda: ShardState.new(world, np.empty(0, np.int32)))


def ids_of(histories, row):
    return histories.view(row).ids_T.tolist()


def test_rows_of_one_id_have_stores_of_their_own():
    histories = rows_of_nobody(3)
    histories.begin(np.arange(3), np.array([5, 5, 6]), [history(1), history(2), history(3)])
    assert ids_of(histories, 0) == [1]
    assert ids_of(histories, 1) == [2]
    assert ids_of(histories, 2) == [3]
    assert [part.tolist() for part, _ in histories.passes(np.arange(3))] == [[0, 2], [1]]


def test_an_id_that_comes_again_begins_anew():
    histories = rows_of_nobody(1)
    histories.begin(np.array([0]), np.array([5]), [history(1, 2)])
    histories.begin(np.array([0]), np.array([5]), [history(7)])
    assert ids_of(histories, 0) == [7]


@pytest.mark.parametrize("rows", [1, 4])
def test_finished_episodes_are_forgotten(rows):
    histories = rows_of_nobody(rows)
    for i in range(100):
        histories.begin(np.array([i % rows]), np.array([1000 + i]), [history(i)])
        shards = [shard for _, shard in histories.passes(np.array([i % rows]))]
        held = sum(shard.histories.length(1000 + j) > 0 for shard in shards for j in range(100))
        assert held <= (DEAD_PER_ROW + 1) * rows + 1
    for i in range(100 - rows, 100):
        assert ids_of(histories, i % rows) == [i]
