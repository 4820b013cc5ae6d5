import numpy as np
import pytest

from simulator.environments.repair import naive_repair, repair


def test_the_first_occurrence_stays_and_the_lowest_indices_left_over_fill_in():
    slate = np.array([[3, 3, 0, 3, 0]])
    repaired, count = repair(slate, 10)
    np.testing.assert_array_equal(repaired, [[3, 1, 0, 2, 4]])
    assert count.tolist() == [3]


def test_a_slate_without_repetitions_is_left_alone():
    slate = np.array([[9, 0, 4], [2, 1, 0]])
    repaired, count = repair(slate, 10)
    np.testing.assert_array_equal(repaired, slate)
    assert count.tolist() == [0, 0]


@pytest.mark.parametrize(("num_candidates", "k"), [(4, 4), (5, 4), (8, 4), (9, 4), (30, 7), (1, 1)])
def test_the_fast_repair_is_the_naive_one(num_candidates, k):
    rng = np.random.default_rng(num_candidates * 100 + k)
    slates = rng.integers(num_candidates, size=(200, k))
    fast, count = repair(slates, num_candidates)
    for slate, repaired, replaced in zip(slates, fast, count, strict=True):
        np.testing.assert_array_equal(repaired, naive_repair(slate, num_candidates))
        assert len(set(repaired.tolist())) == k
        assert replaced == k - len(set(slate.tolist()))
