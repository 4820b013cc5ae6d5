"""The cache of sequence states: budget, order of eviction, forgetting, and threads."""

import threading

import numpy as np
import pytest

from ifa_ray.errors import ConfigError
from ifa_ray.ranking.cached_state import HistoryState
from ifa_ray.ranking.state_cache import SequenceStates


def make_state(length, features=8):
    return HistoryState(dense_FE=np.zeros((features, 9), np.float32), codes=None, length=length)


def hold(states, user_id, version=0, length=1, features=8):
    """Puts a state there, as a ranker does."""
    states.put(states.take(user_id, version), make_state(length, features))


@pytest.fixture
def size():
    """What one small state costs in the cache."""
    states = SequenceStates(10**6)
    hold(states, 1)
    return states.stats().state_bytes


def test_what_was_put_is_taken_once():
    states = SequenceStates(10**6)
    assert states.take(5, 0).state is None
    hold(states, 5, length=7)
    assert states.watermark(5, 0) == 7
    borrowed = states.take(5, 0)
    assert borrowed.state.length == 7
    assert states.watermark(5, 0) is None
    assert states.take(5, 0).state is None
    assert states.stats().state_bytes == 0


def test_bytes_are_those_of_the_states_and_a_fixed_share_of_the_map(size):
    states = SequenceStates(10**6)
    share = size - make_state(1).nbytes
    for user_id in range(10):
        hold(states, user_id, features=8 + user_id)
    expected = sum(make_state(1, 8 + user_id).nbytes for user_id in range(10)) + 10 * share
    assert states.stats().state_bytes == expected
    hold(states, 0, features=100)  # a state that has grown
    expected += make_state(1, 100).nbytes - make_state(1, 8).nbytes
    assert states.stats().state_bytes == expected
    for user_id in range(10):
        states.take(user_id, 0)
    assert states.stats().state_bytes == 0


def test_the_least_lately_used_states_make_room(size):
    states = SequenceStates(3 * size)
    for user_id in (1, 2, 3):
        hold(states, user_id)
    states.put(borrowed := states.take(1, 0), borrowed.state)  # used again
    assert states.watermark(2, 0) == 1  # a look is no use
    hold(states, 4)
    assert [states.watermark(user_id, 0) for user_id in (1, 2, 3, 4)] == [1, None, 1, 1]
    assert states.stats().evictions == 1
    assert states.stats().state_bytes == 3 * size <= states.stats().max_bytes


def test_a_state_that_is_larger_than_the_budget_drives_nobody_out(size):
    states = SequenceStates(3 * size)
    for user_id in (1, 2):
        hold(states, user_id)
    hold(states, 3, features=1000)
    assert [states.watermark(user_id, 0) for user_id in (1, 2, 3)] == [1, 1, None]
    hold(SequenceStates(0), 1)


def test_of_two_states_of_one_user_the_longer_stays():
    states = SequenceStates(10**6)
    first, second = states.take(1, 0), states.take(1, 0)
    states.put(first, make_state(9))
    states.put(second, make_state(4))
    assert states.watermark(1, 0) == 9
    assert states.stats().states == 1


def test_a_user_is_forgotten_in_all_versions_even_while_one_works_on_the_state():
    states = SequenceStates(10**6)
    for user_id in (1, 2):
        for version in (1, 2):
            hold(states, user_id, version)
    borrowed = states.take(1, 2)
    states.forget(lambda user_id, _: user_id == 1)
    states.put(borrowed, borrowed.state)
    assert states.watermark(1, 1) is states.watermark(1, 2) is None
    assert states.watermark(2, 1) == states.watermark(2, 2) == 1


def test_a_version_is_forgotten_for_all_users():
    states = SequenceStates(10**6)
    for user_id in range(3):
        hold(states, user_id, version=1)
        hold(states, user_id, version=2)
    states.forget(lambda _, version: version == 1)
    assert [states.watermark(user_id, 1) for user_id in range(3)] == [None] * 3
    assert [states.watermark(user_id, 2) for user_id in range(3)] == [1] * 3


def test_hit_rates_are_counted_over_answered_requests():
    states = SequenceStates(10**6)
    assert states.stats().hit_rate == 0
    for outcome, times in [("hit", 5), ("behind", 1), ("missing", 2), ("gap", 7)]:
        for _ in range(times):
            states.count(outcome, appended=3 if outcome == "behind" else 0)
    stats = states.stats()
    assert stats.hit_rate == 6 / 8
    assert stats.appended == 3
    assert stats.outcomes["gap"] == 7
    assert stats.outcomes["older"] == 0


def test_a_negative_budget_is_refused():
    with pytest.raises(ConfigError, match=r"max_bytes == -1, must be >= 0"):
        SequenceStates(-1)


def test_threads_never_hold_one_state_together_and_bytes_add_up(size):
    states = SequenceStates(5 * size)
    at_work, failures = set(), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(2000):
            user_id = int(rng.integers(0, 8))
            borrowed = states.take(user_id, 0)
            state = borrowed.state or make_state(1)
            if id(state) in at_work:
                failures.append(user_id)
            at_work.add(id(state))
            state.length += 1
            at_work.discard(id(state))
            states.put(borrowed, state)
            if rng.random() < 0.01:
                states.forget(lambda user, _, gone=user_id: user == gone)
            stats = states.stats()
            if stats.state_bytes > stats.max_bytes or stats.state_bytes != stats.states * size:
                failures.append(stats)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
