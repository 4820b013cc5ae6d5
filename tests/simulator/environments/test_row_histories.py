import numpy as np
import pytest

from ifa_ray.schema import History
from simulator.environments.histories import DEAD_PER_ROW, RowHistories


def history(*ids):
    n = len(ids)
    return History(
        ids_T=np.array(ids, np.int32), actions_T=np.zeros(n, np.uint8), times_ms_T=np.arange(n)
    )


def ids_of(histories, row, key):
    return histories.store_of(row).view(key).ids_T.tolist()


def test_rows_of_one_id_have_stores_of_their_own():
    histories = RowHistories(3)
    histories.begin(np.arange(3), np.array([5, 5, 6]), [history(1), history(2), history(3)])
    assert ids_of(histories, 0, 5) == [1]
    assert ids_of(histories, 1, 5) == [2]
    assert ids_of(histories, 2, 6) == [3]
    assert [part.tolist() for part, _ in histories.passes(np.arange(3))] == [[0, 2], [1]]


def test_an_id_that_comes_again_begins_anew():
    histories = RowHistories(1)
    histories.begin(np.array([0]), np.array([5]), [history(1, 2)])
    histories.begin(np.array([0]), np.array([5]), [history(7)])
    assert ids_of(histories, 0, 5) == [7]


@pytest.mark.parametrize("rows", [1, 4])
def test_finished_episodes_are_forgotten(rows):
    histories = RowHistories(rows)
    for i in range(100):
        histories.begin(np.array([i % rows]), np.array([1000 + i]), [history(i)])
        store = histories.store_of(i % rows)
        held = sum(store.length(1000 + j) > 0 for j in range(100))
        assert held <= (DEAD_PER_ROW + 1) * rows + 1
    for i in range(100 - rows, 100):
        assert ids_of(histories, i % rows, 1000 + i) == [i]
